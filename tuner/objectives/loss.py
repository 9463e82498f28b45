"""From a prediction to a loss per sample, in float32.

Shape legend: B batch, C channels, F frames, h w latent height and width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tuner.config.schema import LossSection
from tuner.families.base import Latents
from tuner.objectives.base import Noised


def per_sample(
    prediction: Latents, noised: Noised, section: LossSection, masks: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Weighted loss of each sample (B,), float32: the mean over its elements, then over its modalities.

    ``masks`` are in [0, 1], by modality: (B, 1, h, w), for clips also (B, 1, F, h, w). Their mean is taken over
    the masked area, so that a small mask does not lower the learning rate; an empty mask gives 0.
    """
    masks = masks or {}
    losses = [
        _mean(elementwise(prediction[name].float() - target.float(), section), masks.get(name))
        for name, target in noised.target.items()
    ]
    return torch.stack(losses).mean(0) * noised.weight


def elementwise(difference: Tensor, section: LossSection) -> Tensor:
    """Loss of each element of ``difference``, float32.

    ``huber`` is 2c (sqrt(d^2 + c^2) - c), about d^2 for small d; ``smooth_l1`` is the same over c.
    """
    if section.kind == "mse":
        return difference.square()
    scale = 2.0 * section.c if section.kind == "huber" else 2.0
    return scale * (torch.sqrt(difference.square() + section.c**2) - section.c)


def _mean(losses: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return losses.flatten(1).mean(1)
    if mask.ndim == losses.ndim - 1:
        mask = mask.unsqueeze(2)  # one mask for all frames
    area = mask.float().expand_as(losses).flatten(1)
    total = area.sum(1)
    # Guarding the divisor rather than the quotient keeps NaN out of the gradient.
    return (losses.flatten(1) * area).sum(1) / torch.where(total > 0, total, 1.0)
