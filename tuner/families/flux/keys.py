"""Flux.1: diffusers names and those of Black Forest Labs' checkpoints.

Source: the single-file conversion of diffusers (``convert_flux_transformer_checkpoint_to_diffusers``).
"""

from __future__ import annotations

from tuner.families.naming import Fuse, KeyRules, Rename

_DOUBLE, _SINGLE = "transformer_blocks.*.", "single_transformer_blocks.*."

_FUSES = [
    Fuse(tuple(f"{_DOUBLE}attn.to_{x}" for x in "qkv"), "double_blocks.*.img_attn.qkv"),
    Fuse(tuple(f"{_DOUBLE}attn.add_{x}_proj" for x in "qkv"), "double_blocks.*.txt_attn.qkv"),
    Fuse((*(f"{_SINGLE}attn.to_{x}" for x in "qkv"), f"{_SINGLE}proj_mlp"), "single_blocks.*.linear1"),
]

_BLOCKS = [
    Rename(f"{_DOUBLE}attn.to_out.0", "double_blocks.*.img_attn.proj"),
    Rename(f"{_DOUBLE}attn.to_add_out", "double_blocks.*.txt_attn.proj"),
    Rename(f"{_DOUBLE}ff.net.0.proj", "double_blocks.*.img_mlp.0"),
    Rename(f"{_DOUBLE}ff.net.2", "double_blocks.*.img_mlp.2"),
    Rename(f"{_DOUBLE}ff_context.net.0.proj", "double_blocks.*.txt_mlp.0"),
    Rename(f"{_DOUBLE}ff_context.net.2", "double_blocks.*.txt_mlp.2"),
    Rename(f"{_DOUBLE}norm1.linear", "double_blocks.*.img_mod.lin"),
    Rename(f"{_DOUBLE}norm1_context.linear", "double_blocks.*.txt_mod.lin"),
    Rename(f"{_SINGLE}proj_out", "single_blocks.*.linear2"),
    Rename(f"{_SINGLE}norm.linear", "single_blocks.*.modulation.lin"),
]

_EDGES = [
    Rename("x_embedder", "img_in"),
    Rename("context_embedder", "txt_in"),
    Rename("proj_out", "final_layer.linear"),
    # diffusers splits (scale, shift), the original (shift, scale).
    Rename("norm_out.linear", "final_layer.adaLN_modulation.1", swap=True),
]

_EMBEDDERS = [
    Rename(f"time_text_embed.{name}_embedder.linear_{number}", f"{original}.{layer}")
    for name, original in (("timestep", "time_in"), ("guidance", "guidance_in"), ("text", "vector_in"))
    for number, layer in ((1, "in_layer"), (2, "out_layer"))
]

NAMES = KeyRules([*_BLOCKS, *_EDGES, *_EMBEDDERS], _FUSES)
