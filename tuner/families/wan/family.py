"""Wan 2.1 and 2.2, text to video, on clips and on images (clips of one frame).

Shape legend: B batch, C latent channels, F frames, f = (F - 1) / 4 + 1 latent frames, H W pixels, h w latent height
and width, L text tokens, D width. The network takes latents (B, C, f, h, w) as they are, a thousand times the noise
level as timestep and text states padded with zeros, and answers noise - data.

Wan 2.2 A14B has two such networks, each for its own range of noise levels; the caller picks the one it asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from tuner.families.base import Cond, Family, Latents, Parts, Row, Source

TIMESTEPS = 1000.0
"""Timestep of pure noise: `num_train_timesteps` of the schedulers."""


class WanFamily(Family):
    """One or two transformers over the latents of a causal video VAE."""

    def load(self, part: str, source: Source, dtype: torch.dtype) -> Any:
        """As every family; the VAE always in float32, as its authors use it."""
        is_vae = self.spec.components[part].role == "vae"
        return super().load(part, source, torch.float32 if is_vae else dtype)

    def encode_text(
        self, encoders: Parts, captions: Sequence[str], references: Sequence[Sequence[Tensor]] | None = None
    ) -> list[Row]:
        """UMT5 states ``prompt_embeds`` (L, D) per caption, without the padding: L is at most ``text_tokens``."""
        pipeline: Any = self.pipeline(encoders)
        states, _ = pipeline.encode_prompt(
            list(captions), do_classifier_free_guidance=False, max_sequence_length=self.spec.text_tokens
        )
        return [{"prompt_embeds": _without_padding(state)} for state in states]

    def collate(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """``prompt_embeds`` (B, text_tokens, D): rows filled up with zeros, which the network attends to."""
        length = self.spec.text_tokens
        states = [row["prompt_embeds"] for row in rows]
        return {"prompt_embeds": torch.stack([pad(state, (0, 0, 0, length - len(state))) for state in states])}

    def encode_media(self, vae: nn.Module, pixels: Tensor) -> Latents:
        """Clips (B, 3, F, H, W) or images (B, 3, H, W) to ``video`` latents (B, C, f, h, w): (mode - mean) / std."""
        clips = pixels if pixels.ndim == 5 else pixels.unsqueeze(2)
        network: Any = vae
        latents: Tensor = network.encode(clips.to(network.dtype)).latent_dist.mode()
        mean, std = (
            latents.new_tensor(values).view(1, -1, 1, 1, 1)
            for values in (network.config.latents_mean, network.config.latents_std)
        )
        return {"video": (latents - mean) / std}

    def predict(self, denoiser: nn.Module, x_t: Latents, t: Tensor, cond: Cond, guidance: float | None) -> Latents:
        """Velocity, noise - data, (B, C, f, h, w); ``t`` (B,) is the noise level. ``guidance`` is not embedded."""
        velocity = denoiser(
            hidden_states=x_t["video"],
            timestep=t * TIMESTEPS,
            encoder_hidden_states=cond.tensors["prompt_embeds"],
            return_dict=False,
        )[0]
        return {"video": velocity}

    def pipeline_config(self) -> dict[str, Any]:
        """``boundary_ratio``: the lowest level of the first of two experts."""
        first, *others = self.spec.denoisers.values()
        return {"boundary_ratio": first.sigma_min if others else None}

    def pipeline_inputs(self, cond: dict[str, Tensor], negative: dict[str, Tensor] | None) -> dict[str, Any]:
        """``prompt_embeds``, and ``negative_prompt_embeds`` where guidance needs them."""
        inputs: dict[str, Any] = dict(cond)
        if negative is not None:
            inputs |= {f"negative_{name}": value for name, value in negative.items()}
        return inputs


def _without_padding(state: Tensor) -> Tensor:
    """(text_tokens, D) cut behind the last token: the pipeline sets everything after it to zero."""
    used = state.detach().any(dim=1).nonzero()
    return state[: int(used.max()) + 1]
