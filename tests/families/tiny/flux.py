"""Tiny Flux models: real classes, random weights, about a megabyte on disk."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.families import harness
from tests.families.tiny.parts import clip_encoder, clip_tokenizer, randomise_zeros, seeded
from tuner.catalog import registry

T5_WIDTH, CLIP_WIDTH = 32, 16
DYNAMIC_SHIFT = {
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}


def build(model_id: str, folder: Path) -> None:
    """Write the tiny form of a Flux model."""
    import diffusers

    spec = registry.find(model_id)
    shift = DYNAMIC_SHIFT if spec.objective.shift.kind == "resolution" else {"shift": 1.0}
    clip, t5 = clip_tokenizer(), t5_tokenizer(spec.text_tokens)
    pipeline = getattr(diffusers, spec.pipeline)(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**shift),
        vae=vae(),
        text_encoder=clip_encoder(clip, CLIP_WIDTH),
        tokenizer=clip,
        text_encoder_2=t5_encoder(t5),
        tokenizer_2=t5,
        transformer=transformer(guidance_embeds=spec.objective.guidance is not None),
    )
    pipeline.save_pretrained(folder)


def transformer(guidance_embeds: bool) -> Any:
    """Two double and two single blocks of width 128: tokens of 64 numbers must fit through."""
    from diffusers import FluxTransformer2DModel

    with seeded(1):
        model = FluxTransformer2DModel(
            patch_size=1,
            in_channels=64,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=32,
            num_attention_heads=4,
            joint_attention_dim=T5_WIDTH,
            pooled_projection_dim=CLIP_WIDTH,
            guidance_embeds=guidance_embeds,
            axes_dims_rope=(8, 12, 12),
        )
        randomise_zeros(model)
    return model


def vae() -> Any:
    """Four levels, hence 8 pixels per latent; scaled so that its latents have about unit variance, as real ones."""
    from diffusers import AutoencoderKL

    with seeded(2):
        return AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8,) * 4,
            layers_per_block=1,
            latent_channels=16,
            norm_num_groups=4,
            sample_size=64,
            scaling_factor=3.0,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
            mid_block_add_attention=False,
        ).eval()


def t5_tokenizer(length: int) -> Any:
    """One token per printable character."""
    from transformers import T5TokenizerFast

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    pieces += [(letter, -3.0) for letter in string.printable if not letter.isspace()]
    return T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=length)


def t5_encoder(tokenizer: Any) -> Any:
    """Two layers."""
    from transformers import T5Config, T5EncoderModel

    with seeded(3):
        return T5EncoderModel(
            T5Config(
                vocab_size=len(tokenizer),
                d_model=T5_WIDTH,
                d_kv=8,
                d_ff=2 * T5_WIDTH,
                num_layers=2,
                num_heads=4,
                feed_forward_proj="gated-gelu",
                dropout_rate=0.0,
                is_encoder_decoder=False,
                use_cache=False,
            )
        ).eval()


class Oracle(harness.Oracle):
    """Tokens are 2 x 2 patches, channel first; the timestep is the noise level itself."""

    def read(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        rows, columns = self._grid(kwargs["img_ids"])
        tokens = kwargs["hidden_states"][:, : rows * columns]
        return unpack(tokens, rows, columns), kwargs["timestep"]

    def answer(self, wanted: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tokens = pack(wanted)
        # What a real network says about reference tokens is arbitrary.
        rest = torch.full_like(kwargs["hidden_states"][:, tokens.shape[1] :], 7.0)
        return (torch.cat([tokens, rest], dim=1),)

    def final(self, output: Tensor) -> Tensor:
        return unpack(output, self.height_px // 16, self.width_px // 16)

    def call(self) -> dict[str, Any]:
        # The tiny reference is not scaled to one of Kontext's sizes.
        return {"_auto_resize": False} if self.spec.references else {}

    def prompt_call(self) -> dict[str, Any]:
        return {"max_sequence_length": self.spec.text_tokens}

    @staticmethod
    def _grid(ids: Tensor) -> tuple[int, int]:
        """Rows and columns of the tokens to be denoised: those whose first coordinate is 0."""
        own = ids[ids[:, 0] == 0]
        return int(own[:, 1].max()) + 1, int(own[:, 2].max()) + 1


def pack(latents: Tensor) -> Tensor:
    """(B, C, h, w) to (B, h/2 * w/2, 4C)."""
    return torch.nn.functional.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)


def unpack(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """(B, rows * columns, 4C) to (B, C, 2 rows, 2 columns)."""
    return torch.nn.functional.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (rows, columns)), 2)
