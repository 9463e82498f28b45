"""Flow matching on straight paths between data (level 0) and noise (level 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from tuner.catalog.spec import ObjectiveSpec
from tuner.config.schema import ObjectiveSection
from tuner.errors import ConfigError
from tuner.families.base import Latents
from tuner.objectives.base import Noised, Objective, broadcast


class FlowObjective(Objective):
    """x_t = (1 - t) x0 + t noise, target noise - x0 (Liu et al. 2022, arXiv:2209.03003)."""

    def __init__(self, spec: ObjectiveSpec, section: ObjectiveSection) -> None:
        super().__init__(section.timesteps, spec.sampling, spec.shift)
        self.prediction = "flow"
        if section.weighting != "none":
            raise ConfigError(
                f"objective.weighting: {section.weighting!r} is for epsilon and v_prediction; this is a flow model",
                hint="shape objective.timesteps.sampling instead",
            )
        if section.zero_terminal_snr != "auto":
            raise ConfigError(
                "objective.zero_terminal_snr: flow models have no noise schedule to rescale",
                hint="leave objective.zero_terminal_snr on 'auto'",
            )

    def levels(self, u: Tensor, tokens: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """See ``Objective``: noise levels in [0, 1]."""
        return self._fractions(u, tokens, low, high).float()

    def fraction(self, t: float) -> float:
        """See ``Objective``."""
        return t

    def noised(self, latents: Latents, noise: Latents, t: Tensor) -> Noised:
        """See ``Objective``."""
        x_t, target = {}, {}
        for name, clean in latents.items():
            x0, x1, level = clean.float(), noise[name].float(), broadcast(t, clean)
            x_t[name] = (1 - level) * x0 + level * x1
            target[name] = x1 - x0
        return Noised(x_t, t.float(), target, torch.ones_like(t, dtype=torch.float32))
