"""Flux.1: dev, Krea, schnell and Kontext, and the demo's small model of the same architecture.

Shape legend: B batch, C latent channels, h w latent height and width, N = h/2 * w/2 image tokens, L text
tokens, D width. The network takes 2 x 2 patches of latents as tokens (B, N, 4C) with a position id each, the
noise level itself as timestep, and answers noise - data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tuner.errors import ConfigError
from tuner.families.base import Cond, Family, Geometry, Latents, Parts, Row


class FluxFamily(Family):
    """Packs latents into tokens; references are further tokens behind them (Kontext)."""

    def encode_text(
        self, encoders: Parts, captions: Sequence[str], references: Sequence[Sequence[Tensor]] | None = None
    ) -> list[Row]:
        """T5 states ``prompt_embeds`` (L, D) and CLIP's pooled vector ``pooled_prompt_embeds`` (D,) per caption."""
        states, pooled, _ = self.pipeline(encoders).encode_prompt(
            list(captions), max_sequence_length=self.spec.text_tokens
        )
        return [
            {"prompt_embeds": state, "pooled_prompt_embeds": vector}
            for state, vector in zip(states, pooled, strict=True)
        ]

    def encode_media(self, vae: nn.Module, pixels: Tensor) -> Latents:
        """Pixels (B, 3, H, W) to ``image`` latents (B, C, H/8, W/8): (z - shift) * scale of the mode."""
        return {"image": self._encode(vae, pixels)}

    def encode_reference(self, vae: nn.Module, pixels: Tensor) -> Tensor:
        """The same latents; raises ``ConfigError`` for models without references."""
        if self.spec.references == 0:
            return super().encode_reference(vae, pixels)
        return self._encode(vae, pixels)

    def reference_size_px(self, width_px: int, height_px: int, target: Geometry) -> tuple[int, int]:
        """The size of Kontext's list with the closest aspect ratio, as ``FluxKontextPipeline`` picks it."""
        from diffusers.pipelines.flux.pipeline_flux_kontext import PREFERRED_KONTEXT_RESOLUTIONS

        aspect = width_px / height_px
        _, width, height = min((abs(aspect - w / h), w, h) for w, h in PREFERRED_KONTEXT_RESOLUTIONS)
        return width, height

    def predict(self, denoiser: nn.Module, x_t: Latents, t: Tensor, cond: Cond, guidance: float | None) -> Latents:
        """Velocity, noise - data, (B, C, h, w); ``t`` (B,) is the noise level.

        Raises ``ConfigError`` when the network embeds guidance and none is given.
        """
        latents = x_t["image"]  # (B, C, h, w)
        tokens, ids = _pack(latents, first=0)  # (B, N, 4C), (N, 3)
        count = tokens.shape[1]
        for number, reference in enumerate(cond.references, start=1):
            more_tokens, more_ids = _pack(reference, first=number)
            tokens = torch.cat([tokens, more_tokens], dim=1)
            ids = torch.cat([ids, more_ids])
        states = cond.tensors["prompt_embeds"]  # (B, L, D)
        velocity = denoiser(
            hidden_states=tokens,
            timestep=t,
            guidance=self._guidance(denoiser, guidance, t),
            pooled_projections=cond.tensors["pooled_prompt_embeds"],
            encoder_hidden_states=states,
            txt_ids=ids.new_zeros(states.shape[1], 3),
            img_ids=ids,
            return_dict=False,
        )[0][:, :count]  # what the network says about reference tokens means nothing
        return {"image": _unpack(velocity, latents.shape[-2], latents.shape[-1])}

    def size_inputs(self, width_px: int, height_px: int) -> dict[str, Any]:
        """Kontext's pipeline scales every size to one megapixel unless it is told the area."""
        inputs = super().size_inputs(width_px, height_px)
        return inputs | {"max_area": width_px * height_px} if self.spec.references else inputs

    def pipeline_inputs(self, cond: dict[str, Tensor], negative: dict[str, Tensor] | None) -> dict[str, Any]:
        """``prompt_embeds`` and ``pooled_prompt_embeds``; the negative ones only where guidance has a second prompt."""
        inputs: dict[str, Any] = dict(cond)
        if negative is not None and self.spec.sampling.guidance_argument == "true_cfg_scale":
            inputs |= {f"negative_{name}": value for name, value in negative.items()}
        return inputs

    def _encode(self, vae: nn.Module, pixels: Tensor) -> Tensor:
        moments: Any = vae.encode(pixels.to(vae.dtype))
        latents: Tensor = (moments.latent_dist.mode() - vae.config.shift_factor) * vae.config.scaling_factor
        return latents

    def _guidance(self, denoiser: nn.Module, guidance: float | None, t: Tensor) -> Tensor | None:
        if not denoiser.config.guidance_embeds:
            return None
        if guidance is None:
            raise ConfigError(
                f"{self.spec.id}: this network embeds a guidance value and none is given",
                hint="set objective.guidance to 1.0",
            )
        return torch.full_like(t, guidance, dtype=torch.float32)


def _pack(latents: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Latents (B, C, h, w) to tokens (B, N, 4C) and their ids (N, 3): ``first``, row, column."""
    from diffusers import FluxPipeline

    batch, channels, height, width = latents.shape
    tokens = FluxPipeline._pack_latents(latents, batch, channels, height, width)
    ids = FluxPipeline._prepare_latent_image_ids(batch, height // 2, width // 2, latents.device, latents.dtype)
    ids[:, 0] = first
    return tokens, ids


def _unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Tokens (B, N, 4C) to latents (B, C, h, w)."""
    from diffusers import FluxPipeline

    # The helper divides pixels by the scale of the VAE; given latent sizes, that scale is 1.
    latents: Tensor = FluxPipeline._unpack_latents(tokens, height, width, vae_scale_factor=1)
    return latents
