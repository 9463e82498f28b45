"""Models with several denoisers: which one is responsible for a noise level, and which one a step trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tuner.catalog.spec import ModelSpec
from tuner.errors import ConfigError
from tuner.objectives.base import Objective


@dataclass(frozen=True)
class Expert:
    """One denoiser and the noise levels it is responsible for, as fractions of full noise."""

    name: str
    low: float
    high: float


@dataclass(frozen=True)
class Experts:
    """All denoisers of a model, and those that are trained. Most models have one."""

    every: tuple[Expert, ...]
    trained: tuple[Expert, ...]

    @classmethod
    def of(cls, spec: ModelSpec, trained: Sequence[str]) -> Experts:
        """From the spec; ``trained`` names the components that learn."""
        every = tuple(Expert(name, part.sigma_min, part.sigma_max) for name, part in spec.denoisers.items())
        return cls(every, tuple(expert for expert in every if expert.name in trained))

    @property
    def trained_range(self) -> tuple[float, float]:
        """Lowest and highest level that training covers."""
        chosen = self.trained or self.every
        return min(expert.low for expert in chosen), max(expert.high for expert in chosen)

    def responsible(self, t: float, objective: Objective) -> str:
        """The denoiser that the stock pipeline would ask at ``t`` (in the objective's terms)."""
        fraction = objective.fraction(t)
        for expert in sorted(self.every, key=lambda expert: -expert.low):
            if fraction >= expert.low:
                return expert.name
        return self.every[-1].name

    def choose(self, objective: Objective, tokens: int, source: torch.Generator) -> Expert:
        """The expert one step trains: drawn with the share of the distribution that falls to it.

        Text encoders alone can be trained too; then the frozen denoisers take turns the same way. Raises
        ``ConfigError`` when the timestep limits leave the trained denoisers nothing to learn.
        """
        candidates = self.trained or self.every
        shares = torch.tensor([objective.mass(expert.low, expert.high, tokens) for expert in candidates])
        if float(shares.sum()) <= 0.0:
            names = ", ".join(expert.name for expert in candidates)
            raise ConfigError(
                f"objective.timesteps: min and max leave no noise level for {names}",
                hint="widen objective.timesteps.min and .max, or choose other denoisers with method.train",
            )
        if len(candidates) == 1:
            return candidates[0]
        return candidates[int(torch.multinomial(shares, 1, generator=source))]
