"""What all objectives have in common: levels drawn from a shifted, truncated distribution, and noisy latents.

Shape legend: B batch, C channels, h w latent height and width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from tuner.catalog.spec import Prediction, ShiftSpec
from tuner.config.schema import TimestepSection
from tuner.families.base import Latents
from tuner.objectives import distributions, shift


@dataclass(frozen=True)
class Noised:
    """What one batch trains on. Everything is float32."""

    x_t: Latents
    """Noisy latents, shaped like the clean ones."""
    t: Tensor
    """(B,): noise levels in [0, 1] for flow, whole timesteps for epsilon and v_prediction."""
    target: Latents
    """What a perfect network answers, shaped like the latents."""
    weight: Tensor
    """(B,): factor of each sample's loss."""


class Objective(ABC):
    """How levels are drawn, latents are noised and targets are formed. Stateless between calls."""

    prediction: Prediction

    def __init__(self, section: TimestepSection, sampling: str, shift_spec: ShiftSpec) -> None:
        self.distribution = distributions.build(section, sampling)
        self.low, self.high = section.min, section.max
        self._shift_spec = shift_spec
        # Custom levels mean what they say.
        self._shift_setting = 1.0 if section.sampling == "custom" else section.shift

    @abstractmethod
    def levels(self, u: Tensor, tokens: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Levels t (B,) float32 for positions ``u`` (B,) in (0, 1), on the CPU.

        ``u`` runs through the shifted distribution, cut to what both the preset's min and max and ``low`` and
        ``high`` (fractions of full noise) allow. ``tokens`` is the number of denoiser tokens of one sample.
        Raises ``ConfigError`` when nothing is left of the distribution there.
        """

    @abstractmethod
    def fraction(self, t: float) -> float:
        """A level as ``levels`` gives it, as a fraction of full noise."""

    @abstractmethod
    def noised(self, latents: Latents, noise: Latents, t: Tensor) -> Noised:
        """Noisy latents and their targets for clean ``latents``, ``noise`` of the same shapes and levels ``t`` (B,)."""

    def mass(self, low: float, high: float, tokens: int) -> float:
        """Share of the trained levels that falls between ``low`` and ``high``, fractions of full noise."""
        factor = self._factor(tokens)
        whole = self._share(self.low, self.high, factor)
        part = self._share(max(self.low, low), min(self.high, high), factor)
        return part / whole if whole > 0.0 else 0.0

    def quantile_levels(self, count: int, tokens: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Levels (count,) at the middles of ``count`` equal parts of the distribution, for validation."""
        middles = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        return self.levels(middles, tokens, low, high)

    def _fractions(self, u: Tensor, tokens: int, low: float, high: float) -> Tensor:
        """``levels`` as fractions of full noise, float64."""
        factor = self._factor(tokens)
        low, high = max(self.low, low), min(self.high, high)
        drawn = self.distribution.between(u.double(), shift.invert(low, factor), shift.invert(high, factor))
        return shift.apply(drawn, factor).clamp(low, high)

    def _factor(self, tokens: int) -> float:
        return shift.factor(self._shift_spec, self._shift_setting, tokens)

    def _share(self, low: float, high: float, factor: float) -> float:
        if low >= high:
            return 0.0
        return self.distribution.share(shift.invert(low, factor), shift.invert(high, factor))


def broadcast(values: Tensor, like: Tensor) -> Tensor:
    """``values`` (B,) as (B, 1, ...), float32, to be combined with ``like`` (B, ...)."""
    return values.float().view(-1, *[1] * (like.ndim - 1))
