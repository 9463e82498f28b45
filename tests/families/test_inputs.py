"""Training shows the denoiser exactly what sampling shows it: every input, not only latents and timestep."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.families import harness
from tests.families.harness import Case
from tuner.families.base import Cond, Family


def check_inputs(case: Case, family: Family, cond: Cond, *, encode: bool) -> None:
    """All inputs of the pipeline's first denoiser call equal those of `predict` for the same latents and level."""
    denoisers = case.load(*case.spec.denoisers)
    pipeline = case.pipeline(denoisers)
    first = next(iter(denoisers.values()))
    args, kwargs = harness.inputs_of(first, lambda: case.sample(pipeline, encode=encode))
    x_t, level = case.oracle.read(args, kwargs)
    ours = harness.inputs_of(
        first,
        lambda: family.predict(first, {case.modality: x_t}, level.reshape(-1).float(), cond, case.embedded_guidance),
    )
    compare(harness.named_inputs(first, args, kwargs), harness.named_inputs(first, *ours))


def compare(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        if not isinstance(value, Tensor):
            assert ours[name] == value, name
            continue
        found = ours[name].float()
        wanted = value.float()
        if wanted.numel() == 1 or name == "timestep":
            wanted = wanted.reshape(-1).expand(found.numel()).reshape(found.shape)
        assert found.shape == wanted.shape, f"{name}: {tuple(found.shape)} instead of {tuple(wanted.shape)}"
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("encode", [False, True], ids=["embeddings", "prompt"])
def test_inputs_match_the_pipeline(case: Case, encode: bool) -> None:
    check_inputs(case, case.family, case.cond(), encode=encode)


def test_another_text_is_caught(case: Case) -> None:
    with pytest.raises(AssertionError):
        check_inputs(case, case.family, case.cond(("another text",)), encode=True)
