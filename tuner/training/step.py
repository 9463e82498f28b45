"""One batch: from items to a loss per sample. Training and validation share it.

Shape legend: B batch, C channels, h w latent height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tuner.config.schema import LossSection
from tuner.data import media
from tuner.data.buckets import Item
from tuner.families.base import Cond, Family, Latents
from tuner.memory.placement import Placement
from tuner.objectives import loss as losses
from tuner.objectives.base import Objective
from tuner.training.prepare import MediaRows, TextRows

MODALITIES = ("image", "video", "audio")


@dataclass
class Batch:
    """A batch on the device, before noise. Latents are float32."""

    latents: Latents
    masks: dict[str, Tensor] | None
    cond: Cond
    tokens: int
    """Denoiser tokens of one sample, for resolution-dependent shifts."""


@dataclass
class StepMath:
    """What every batch has in common."""

    family: Family
    objective: Objective
    loss: LossSection
    placement: Placement
    media: MediaRows
    text: TextRows
    guidance: float | None

    def batch(self, items: Sequence[Item], captions: Sequence[str]) -> Batch:
        """Look the rows of ``items`` up and put them on the device; all items share one bucket."""
        device, dtype = self.placement.device, self.placement.dtype
        rows = [self.media.row(item) for item in items]

        def stacked(name: str) -> Tensor:
            return torch.stack([row[name] for row in rows]).to(device, torch.float32, non_blocking=True)

        names = list(rows[0])
        latents = {name: stacked(name) for name in names if name in MODALITIES}
        masks = {name: stacked("mask") for name in latents} if "mask" in names else None
        references = [stacked(name) for name in sorted(names) if name.startswith("reference.")]
        tensors = self.family.collate(self.text.rows(captions))
        geometry = [self.family.geometry_row(media.geometry(item)) for item in items]
        if geometry[0]:
            tensors |= {key: torch.stack([row[key] for row in geometry]) for key in geometry[0]}
        cond = Cond(tensors, references).to(device, dtype)
        return Batch(latents, masks, cond, token_count(items[0], self.family))

    def per_sample(self, denoiser: nn.Module, batch: Batch, t: Tensor, noise: Latents) -> Tensor:
        """Loss of each sample (B,), float32, for levels ``t`` (B,) and ``noise`` shaped like the latents."""
        device, dtype = self.placement.device, self.placement.dtype
        t = t.to(device)
        noise = {name: value.to(device, non_blocking=True) for name, value in noise.items()}
        noised = self.objective.noised(batch.latents, noise, t)
        x_t = {name: value.to(dtype) for name, value in noised.x_t.items()}
        prediction = self.family.predict(denoiser, x_t, t, batch.cond, self.guidance)
        return losses.per_sample(prediction, noised, self.loss, batch.masks)


def token_count(item: Item, family: Family) -> int:
    """Denoiser tokens of one item."""
    latents = family.spec.latents
    frames = (item.crop.frames - 1) // latents.temporal + 1
    return frames * (item.crop.height_px // latents.tokens_px) * (item.crop.width_px // latents.tokens_px)
