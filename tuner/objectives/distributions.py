"""Distributions of noise levels in [0, 1], before the shift: quantiles, and the share below a level.

Levels are drawn by inverting the distribution function, in float64, so that truncation is exact: between a and
b the quantile of F(a) + u (F(b) - F(a)) is taken. No table is sliced, and both tails can be reached.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from tuner.config.schema import TimestepSection
from tuner.errors import ConfigError

SMALLEST_SHARE = 1e-9
"""Below this, float64 no longer resolves a truncated distribution."""

MODE_SCALES = (-1.0, 2.0 / (math.pi - 2.0))
"""Outside this range the quantile function of `mode` is not monotonic (Esser et al. 2024, section 3.1)."""


class Distribution(ABC):
    """Levels in [0, 1] that can be cut to an interval."""

    @abstractmethod
    def share(self, low: float, high: float) -> float:
        """Probability of a level between ``low`` and ``high``."""

    @abstractmethod
    def between(self, u: Tensor, low: float, high: float) -> Tensor:
        """Levels (B,) at the shares ``u`` (B,) of the distribution cut to [low, high]; float64.

        Raises ``ConfigError`` when the distribution has nothing there.
        """


class Continuous(Distribution):
    """A distribution with a density, given by its distribution function and the inverse of that."""

    @abstractmethod
    def cdf(self, level: float) -> float:
        """Probability of a level below ``level``."""

    @abstractmethod
    def quantile(self, u: Tensor) -> Tensor:
        """The level (B,) below which a share ``u`` (B,) lies; float64."""

    def share(self, low: float, high: float) -> float:
        """See ``Distribution``."""
        return max(0.0, self.cdf(high) - self.cdf(low))

    def between(self, u: Tensor, low: float, high: float) -> Tensor:
        """See ``Distribution``."""
        share = self.share(low, high)
        if share < SMALLEST_SHARE:
            raise nothing_left(low, high)
        return self.quantile((self.cdf(low) + u.double() * share).clamp(0.0, 1.0)).clamp(low, high)


class Uniform(Continuous):
    """Every level alike."""

    def cdf(self, level: float) -> float:
        """See ``Continuous``."""
        return level

    def quantile(self, u: Tensor) -> Tensor:
        """See ``Continuous``."""
        return u.double()


class LogitNormal(Continuous):
    """sigmoid(N(mean, std)) (Esser et al. 2024, arXiv:2403.03206, section 3.1)."""

    def __init__(self, mean: float, std: float) -> None:
        self.mean, self.std = mean, std

    def cdf(self, level: float) -> float:
        """See ``Continuous``."""
        if level <= 0.0 or level >= 1.0:
            return float(level >= 1.0)
        score = (math.log(level) - math.log1p(-level) - self.mean) / self.std
        return 0.5 * math.erfc(-score / math.sqrt(2.0))

    def quantile(self, u: Tensor) -> Tensor:
        """See ``Continuous``."""
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u.double()))


class Mode(Continuous):
    """Mode sampling with heavy tails (Esser et al. 2024, section 3.1), with u counted from clean to noise.

    The paper's f(u) = 1 - u - s (cos^2(pi u / 2) - 1 + u) falls with u; here is f(1 - u). ``cdf`` is found by
    bisection to the precision of float64.
    """

    def __init__(self, scale: float) -> None:
        low, high = MODE_SCALES
        if not low <= scale <= high:
            raise ConfigError(
                f"objective.timesteps.mode_scale: {scale} is outside [{low:.0f}, {high:.4f}]",
                hint="the original is 1.29",
            )
        self.scale = scale

    def cdf(self, level: float) -> float:
        """See ``Continuous``."""
        if level <= 0.0 or level >= 1.0:
            return float(level >= 1.0)
        low, high = 0.0, 1.0
        while (middle := (low + high) / 2) not in (low, high):
            if middle + self.scale * (middle - math.sin(math.pi * middle / 2) ** 2) < level:
                low = middle
            else:
                high = middle
        return high

    def quantile(self, u: Tensor) -> Tensor:
        """See ``Continuous``."""
        u = u.double()
        return u + self.scale * (u - torch.sin(math.pi / 2 * u) ** 2)


class CosMap(Continuous):
    """Levels of the cosine schedule, 1 - 1 / (tan(pi u / 2) + 1) (Esser et al. 2024, section 3.1)."""

    def cdf(self, level: float) -> float:
        """See ``Continuous``."""
        return 2.0 / math.pi * math.atan2(level, 1.0 - level)

    def quantile(self, u: Tensor) -> Tensor:
        """See ``Continuous``."""
        angle = math.pi / 2 * u.double()
        # The same as the formula above without its infinite tangent at u = 1.
        return torch.sin(angle) / (torch.sin(angle) + torch.cos(angle))


class Beta(Continuous):
    """Beta(a, b), integrated once over x = logit(t), where its density t^a (1 - t)^b is smooth and has thin tails.

    Trapezoids between 65,537 nodes; quantiles are interpolated linearly in x. The error of the distribution
    function is below 1e-6; the tails that are left out hold less than 1e-20.
    """

    NODES = 65_537
    LOG_RANGE = 50.0
    """The density is followed down to e^-50 of its peak."""

    def __init__(self, a: float, b: float) -> None:
        if a <= 0.0 or b <= 0.0:
            raise ConfigError("objective.timesteps.beta: both parameters must be above 0", hint="the usual are 2 and 2")
        self._a, self._b = a, b
        peak = math.log(a / b)
        low, high = peak - self._reach(peak, -1.0), peak + self._reach(peak, 1.0)
        self.logits = torch.linspace(low, high, self.NODES, dtype=torch.float64)
        density = torch.exp(self._log_density(self.logits) - self._log_density(torch.tensor(peak).double()))
        below = torch.cumulative_trapezoid(density, self.logits)
        self.shares = torch.cat([torch.zeros(1, dtype=torch.float64), below / below[-1]])

    def _log_density(self, logits: Tensor) -> Tensor:
        sigmoid = torch.nn.functional.logsigmoid
        return self._a * sigmoid(logits) + self._b * sigmoid(-logits)

    def _reach(self, peak: float, direction: float) -> float:
        """How far from its peak the density is worth following."""
        reach = 1e-3
        top = float(self._log_density(torch.tensor(peak).double()))
        while top - float(self._log_density(torch.tensor(peak + direction * reach).double())) < self.LOG_RANGE:
            reach *= 2.0
        return reach

    def cdf(self, level: float) -> float:
        """See ``Continuous``."""
        if level <= 0.0 or level >= 1.0:
            return float(level >= 1.0)
        logit = torch.tensor([math.log(level) - math.log1p(-level)], dtype=torch.float64)
        return float(_interpolated(logit, self.logits, self.shares))

    def quantile(self, u: Tensor) -> Tensor:
        """See ``Continuous``."""
        return torch.sigmoid(_interpolated(u.double(), self.shares, self.logits))


class Listed(Distribution):
    """Given levels with equal probability."""

    def __init__(self, values: Sequence[float]) -> None:
        self.values = torch.tensor(sorted(values), dtype=torch.float64)

    def share(self, low: float, high: float) -> float:
        """See ``Distribution``."""
        return len(self._inside(low, high)) / len(self.values)

    def between(self, u: Tensor, low: float, high: float) -> Tensor:
        """See ``Distribution``."""
        inside = self._inside(low, high)
        if not len(inside):
            raise nothing_left(low, high)
        index = (u.double() * len(inside)).long().clamp(0, len(inside) - 1)
        return inside[index]

    def _inside(self, low: float, high: float) -> Tensor:
        return self.values[(self.values >= low) & (self.values <= high)]


def build(section: TimestepSection, own: str) -> Distribution:
    """The distribution a preset asks for; ``own`` is the model's, for ``auto``."""
    match own if section.sampling == "auto" else section.sampling:
        case "uniform":
            return Uniform()
        case "logit_normal":
            return LogitNormal(section.mean, section.std)
        case "mode":
            return Mode(section.mode_scale)
        case "cosmap":
            return CosMap()
        case "beta":
            return Beta(*section.beta)
        case "custom":
            return Listed(section.values)
        case name:
            raise ConfigError(f"objective.timesteps.sampling: {name!r} is not known")


def nothing_left(low: float, high: float) -> ConfigError:
    """The error for an interval without levels, given as they are before the shift."""
    return ConfigError(
        f"objective.timesteps: the distribution has nothing between {low:.4g} and {high:.4g} (before the shift)",
        hint="widen objective.timesteps.min and .max, or choose another sampling",
    )


def _interpolated(at: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The piecewise linear function through (x, y) at ``at``; constant beyond the ends. ``x`` does not fall."""
    right = torch.searchsorted(x, at).clamp(1, len(x) - 1)
    left = right - 1
    weight = ((at - x[left]) / (x[right] - x[left])).clamp(0.0, 1.0)
    return torch.lerp(y[left], y[right], weight)
