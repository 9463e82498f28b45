"""Stable Diffusion XL, its v-prediction fine-tunes, and the smaller networks distilled from it.

Shape legend: B batch, h w latent height and width, H W pixels, L = 77 text tokens, D = 768 + 1280 text width.

The network takes the variance-preserving x_t as it is, the integer timestep, the text states, and beside them
one pooled vector and six size ids. It answers epsilon or v, whichever the checkpoint was trained for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tuner.families.base import Cond, Family, Geometry, Latents, Parts, Row, Source


class SdxlFamily(Family):
    """A U-Net that is told the original size, the crop and the size of every sample."""

    def load(self, part: str, source: Source, dtype: torch.dtype) -> Any:
        """As every family; the scheduler follows the model's objective.

        Converted v-prediction checkpoints often carry the epsilon schedule of the base model, and previews
        drawn with it are noise.
        """
        component = super().load(part, source, dtype)
        if self.spec.components[part].role == "scheduler":
            return type(component).from_config(component.config, **self._schedule())
        return component

    def encode_text(
        self, encoders: Parts, captions: Sequence[str], references: Sequence[Sequence[Tensor]] | None = None
    ) -> list[Row]:
        """Per caption ``prompt_embeds`` (L, D), the penultimate states of both encoders side by side, and
        ``pooled_prompt_embeds`` (1280,), the projection of the second one.
        """
        states, _, pooled, _ = self.pipeline(encoders).encode_prompt(list(captions), do_classifier_free_guidance=False)
        return [
            {"prompt_embeds": state, "pooled_prompt_embeds": vector}
            for state, vector in zip(states, pooled, strict=True)
        ]

    def encode_media(self, vae: nn.Module, pixels: Tensor) -> Latents:
        """Pixels (B, 3, H, W) to ``image`` latents (B, 4, H/8, W/8), float32: the scaled mode.

        ``vae`` is put into float32, where it stays: half precision overflows (float16) or blurs (bfloat16).
        Derivatives whose VAE has per-channel statistics are normalised with them: the inverse of what the
        pipeline does before it decodes.
        """
        network: Any = vae
        if network.dtype != torch.float32:
            network.to(torch.float32)
        latents: Tensor = network.encode(pixels.to(torch.float32)).latent_dist.mode()
        mean, std = network.config.get("latents_mean"), network.config.get("latents_std")
        if mean is not None and std is not None:
            latents = (latents - _per_channel(mean, latents)) / _per_channel(std, latents)
        return {"image": latents * network.config.scaling_factor}

    def geometry_row(self, geometry: Geometry) -> Row:
        """``time_ids`` (6,): original height and width, top and left of the crop, target height and width.

        Integers, so that a batch in half precision does not round them.
        """
        sizes = (
            geometry.original_height_px,
            geometry.original_width_px,
            geometry.top_px,
            geometry.left_px,
            geometry.height_px,
            geometry.width_px,
        )
        return {"time_ids": torch.tensor(sizes, dtype=torch.int64)}

    def predict(self, denoiser: nn.Module, x_t: Latents, t: Tensor, cond: Cond, guidance: float | None) -> Latents:
        """Epsilon or v (B, 4, h, w); ``t`` (B,) holds whole timesteps."""
        prediction = denoiser(
            x_t["image"],
            t.long(),
            encoder_hidden_states=cond.tensors["prompt_embeds"],
            added_cond_kwargs={
                "text_embeds": cond.tensors["pooled_prompt_embeds"],
                "time_ids": cond.tensors["time_ids"],
            },
            return_dict=False,
        )[0]
        return {"image": prediction}

    def pipeline_config(self) -> dict[str, Any]:
        """No invisible watermark, even where the package for it is installed: previews show the model alone."""
        return {"add_watermarker": False}

    def pipeline_inputs(self, cond: dict[str, Tensor], negative: dict[str, Tensor] | None) -> dict[str, Any]:
        """``prompt_embeds`` and ``pooled_prompt_embeds``, and the same with ``negative_`` in front."""
        inputs: dict[str, Any] = dict(cond)
        if negative is not None:
            inputs |= {f"negative_{name}": value for name, value in negative.items()}
        return inputs

    def _schedule(self) -> dict[str, Any]:
        objective = self.spec.objective
        schedule = objective.schedule
        config: dict[str, Any] = {
            "prediction_type": objective.prediction,
            "num_train_timesteps": schedule.num_timesteps,
            "beta_start": schedule.beta_start,
            "beta_end": schedule.beta_end,
            "beta_schedule": schedule.kind,
            "rescale_betas_zero_snr": schedule.zero_terminal_snr,
        }
        if schedule.zero_terminal_snr:
            # Other spacings never visit the last step, the one that is pure noise (arXiv 2305.08891, section 3.3).
            config["timestep_spacing"] = "trailing"
        return config


def _per_channel(values: Sequence[float], latents: Tensor) -> Tensor:
    """Statistics (C,) shaped to broadcast over (B, C, h, w)."""
    return torch.tensor(values, device=latents.device, dtype=latents.dtype).view(1, -1, 1, 1)
