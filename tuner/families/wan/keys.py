"""Wan 2.1 and 2.2: diffusers names and those of the original checkpoints.

Source: the single-file conversion of diffusers (``convert_wan_transformer_to_diffusers``).
"""

from __future__ import annotations

from tuner.families.naming import KeyRules, Rename

_ATTENTION = [
    Rename(f"blocks.*.attn{number}.{ours}", f"blocks.*.{kind}_attn.{theirs}")
    for number, kind in ((1, "self"), (2, "cross"))
    for ours, theirs in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "o"))
]

_BLOCKS = [
    Rename("blocks.*.attn2.add_k_proj", "blocks.*.cross_attn.k_img"),
    Rename("blocks.*.attn2.add_v_proj", "blocks.*.cross_attn.v_img"),
    Rename("blocks.*.ffn.net.0.proj", "blocks.*.ffn.0"),
    Rename("blocks.*.ffn.net.2", "blocks.*.ffn.2"),
]

_EDGES = [
    Rename("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    Rename("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    Rename("condition_embedder.time_proj", "time_projection.1"),
    Rename("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    Rename("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    Rename("condition_embedder.image_embedder.ff.net.0.proj", "img_emb.proj.1"),
    Rename("condition_embedder.image_embedder.ff.net.2", "img_emb.proj.3"),
    Rename("proj_out", "head.head"),
]

NAMES = KeyRules([*_ATTENTION, *_BLOCKS, *_EDGES])
