"""Tiny Wan models: real classes, random weights, about a megabyte on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from tests.families import harness
from tests.families.tiny.flux import t5_tokenizer
from tests.families.tiny.parts import randomise_zeros, seeded
from tuner.catalog import registry

TEXT_WIDTH = 32
FLOW_SHIFT = 3.0
"""What the published repositories hold."""


def build(model_id: str, folder: Path) -> None:
    """Write the tiny form of a Wan model; experts get different weights."""
    import diffusers

    spec = registry.find(model_id)
    tokenizer = t5_tokenizer(spec.text_tokens)
    experts = {name: transformer(seed=number) for number, name in enumerate(spec.denoisers, start=1)}
    pipeline = diffusers.WanPipeline(
        tokenizer=tokenizer,
        text_encoder=umt5_encoder(tokenizer),
        vae=vae(),
        scheduler=diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=FLOW_SHIFT
        ),
        boundary_ratio=0.875 if len(experts) == 2 else None,
        **experts,
    )
    pipeline.save_pretrained(folder)


def transformer(seed: int) -> Any:
    """Two blocks of width 24, with positions for up to 32 patches along each axis."""
    from diffusers import WanTransformer3DModel

    with seeded(seed):
        model = WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=16,
            out_channels=16,
            text_dim=TEXT_WIDTH,
            freq_dim=256,
            ffn_dim=32,
            num_layers=2,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=32,
        )
        randomise_zeros(model)
    return model


def vae() -> Any:
    """Four levels, hence 8 pixels and 4 frames per latent; means and deviations are Wan's own."""
    from diffusers import AutoencoderKLWan

    with seeded(11):
        return AutoencoderKLWan(
            base_dim=4,
            z_dim=16,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
        ).eval()


def umt5_encoder(tokenizer: Any) -> Any:
    """Two layers, each with position biases of its own."""
    from transformers import UMT5Config, UMT5EncoderModel

    with seeded(12):
        return UMT5EncoderModel(
            UMT5Config(
                vocab_size=len(tokenizer),
                d_model=TEXT_WIDTH,
                d_kv=8,
                d_ff=2 * TEXT_WIDTH,
                num_layers=2,
                num_heads=4,
                feed_forward_proj="gated-gelu",
                dropout_rate=0.0,
                is_encoder_decoder=False,
                use_cache=False,
            )
        ).eval()


class Oracle(harness.Oracle):
    """Latents go in and out as they are; the timestep is a thousand times the noise level."""

    frames = 5
    steps = 5
    tolerance = 5e-3  # UniPC cuts its timesteps to integers, which costs up to 1e-3 of the level

    def read(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        return kwargs["hidden_states"], kwargs["timestep"].float() / 1000

    def answer(self, wanted: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return (wanted,)

    def prompt_call(self) -> dict[str, Any]:
        return {"max_sequence_length": self.spec.text_tokens}
