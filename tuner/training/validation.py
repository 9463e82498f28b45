"""Loss on held-out samples at fixed noise and fixed noise levels, so that curves of one run are comparable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from tuner.config.schema import ValidationSection
from tuner.data.buckets import Item
from tuner.events import ValidationDone
from tuner.training.experts import Experts
from tuner.training.randomness import generator, noise_like
from tuner.training.step import StepMath


@dataclass
class Validator:
    """Measures the held-out loss; ``baseline`` is the one before the first step."""

    math: StepMath
    items: Sequence[Item]
    section: ValidationSection
    experts: Experts
    seed: int
    baseline: float | None = None

    @torch.no_grad()
    def measure(self, denoisers: Mapping[str, nn.Module], step: int) -> ValidationDone:
        """Mean loss over all held-out samples and levels, and per level."""
        totals: dict[str, float] = {}
        for index, item in enumerate(self.items):
            batch = self.math.batch([item], [item.sample.caption])
            noise = noise_like(batch.latents, generator(self.seed, "validation", index))
            low, high = self.experts.trained_range
            levels = self.math.objective.quantile_levels(self.section.quantiles, batch.tokens, low, high)
            for number, level in enumerate(levels):
                denoiser = denoisers[self.experts.responsible(float(level), self.math.objective)]
                loss = self.math.per_sample(denoiser, batch, level[None], noise)
                name = f"q{(number + 0.5) / self.section.quantiles:.3f}"
                totals[name] = totals.get(name, 0.0) + float(loss.sum()) / len(self.items)
        mean = sum(totals.values()) / len(totals)
        if self.baseline is None:
            self.baseline = mean
        return ValidationDone(step=step, loss=mean, by_quantile=totals, baseline=self.baseline)
