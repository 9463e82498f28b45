"""Loading: which of a repository's two sets of weights is taken."""

from __future__ import annotations

import pytest

from tuner.families.base import weights_variant


@pytest.mark.parametrize(
    ("files", "variant"),
    [
        (["model.fp16.safetensors"], "fp16"),
        (["diffusion_pytorch_model.fp16-00001-of-00002.safetensors"], "fp16"),
        (["model.fp16.safetensors", "model.safetensors"], None),
        (["model.safetensors"], None),
        (["vocab.json"], None),
    ],
)
def test_variant_is_used_where_there_is_nothing_else(tmp_path, files, variant):
    for name in files:
        (tmp_path / name).touch()
    assert weights_variant(tmp_path) == variant
