"""Tiny SDXL models: real classes, three levels as the real ones, random weights, about a megabyte on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.families import harness
from tests.families.tiny.parts import clip_encoder, clip_tokenizer, randomise_zeros, seeded

WIDTH, WIDTH_2 = 16, 24
TIME_WIDTH = 8
UNIT_LATENTS = 60.0
"""Gives the latents of the random VAE the standard deviation of the real one's, about one."""

SDXL = {"transformer_layers_per_block": (1, 1, 1)}
SSD_1B = {
    "transformer_layers_per_block": (0, 1, 2),
    "reverse_transformer_layers_per_block": ((2, 2, 3), (2, 1, 1), 0),
    "mid_block_type": "UNetMidBlock2D",
}
VEGA = {
    "transformer_layers_per_block": (0, 1, 2),
    "reverse_transformer_layers_per_block": ((2, 2, 2), (1, 1, 1), 0),
    "mid_block_type": "UNetMidBlock2D",
}
LAYOUTS = {"sdxl-base": SDXL, "sdxl-vpred": SDXL, "ssd-1b": SSD_1B, "segmind-vega": VEGA}
"""Where the transformer blocks are; the distilled models have none in the middle, and others up than down."""


def build(model_id: str, folder: Path) -> None:
    """Write the tiny form of an SDXL model."""
    from diffusers import StableDiffusionXLPipeline

    tokenizer, tokenizer_2 = clip_tokenizer(), clip_tokenizer()
    tokenizer_2.pad_token = "!"  # as published: the second tokenizer pads with another token
    pipeline = StableDiffusionXLPipeline(
        scheduler=scheduler(model_id),
        vae=vae(),
        text_encoder=clip_encoder(tokenizer, WIDTH, seed=4),
        tokenizer=tokenizer,
        text_encoder_2=clip_encoder(tokenizer_2, WIDTH_2, projection=WIDTH_2, seed=5),
        tokenizer_2=tokenizer_2,
        unet=unet(LAYOUTS[model_id]),
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder)


def scheduler(model_id: str) -> Any:
    """SDXL's own schedule, for v-prediction as well: converted checkpoints often keep it.

    Evenly spaced for epsilon: SDXL's spacing ends at timestep 1, which looks the same when it is mis-scaled.
    """
    from diffusers import EulerDiscreteScheduler

    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        timestep_spacing="leading" if model_id == "sdxl-vpred" else "trailing",
    )


def unet(layout: dict[str, Any]) -> Any:
    """Three levels of one width."""
    from diffusers import UNet2DConditionModel

    with seeded(1):
        model = UNet2DConditionModel(**unet_config(layout))
        randomise_zeros(model)
    return model


def unet_config(layout: dict[str, Any]) -> dict[str, Any]:
    """SDXL's configuration with small sizes.

    One norm group: in smaller ones so few values are left that the amplitude of the noise is normalised away,
    and no amount of training finds epsilon.
    """
    return {
        "sample_size": 8,
        "block_out_channels": (32, 32, 32),
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": WIDTH + WIDTH_2,
        "attention_head_dim": (2, 2, 4),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": TIME_WIDTH,
        "projection_class_embeddings_input_dim": WIDTH_2 + 6 * TIME_WIDTH,
        "norm_num_groups": 1,
        **layout,
    }


def vae(**overrides: Any) -> Any:
    """Four levels, hence 8 pixels per latent, and SDXL's scale."""
    from diffusers import AutoencoderKL

    config: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (8,) * 4,
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "sample_size": 64,
        "scaling_factor": 0.13025,
        "force_upcast": True,
    }
    with seeded(2):
        model = AutoencoderKL(**config | overrides).eval()
    with torch.no_grad():
        model.quant_conv.weight.mul_(UNIT_LATENTS)
    return model


class Oracle(harness.Oracle):
    """The network sees x_t and the timestep as they are, and answers epsilon or v."""

    height_px = 64
    width_px = 96

    def read(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        sample, timestep = args
        return sample, timestep

    def answer(self, wanted: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return (wanted,)
