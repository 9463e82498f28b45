import math

import pytest
import torch

from tuner.catalog.spec import ShiftSpec
from tuner.objectives import shift

FLUX = ShiftSpec(kind="resolution")


def test_constant_shift():
    assert shift.apply(0.5, 3.0) == pytest.approx(0.75)
    assert shift.apply(torch.tensor([0.0, 0.5, 1.0]), 3.0).tolist() == pytest.approx([0.0, 0.75, 1.0])


def test_resolution_shift_is_the_published_curve():
    mu = 0.8
    for level in (0.1, 0.5, 0.9):
        published = math.exp(mu) / (math.exp(mu) + (1 / level - 1))
        assert shift.apply(level, math.exp(mu)) == pytest.approx(published)


@pytest.mark.parametrize("factor", [0.2, 1.0, 3.1582, 12.0])
def test_invert_undoes_apply(factor):
    levels = torch.linspace(0, 1, 21, dtype=torch.float64)
    assert torch.allclose(shift.invert(shift.apply(levels, factor), factor), levels)


@pytest.mark.parametrize(
    ("spec", "setting", "tokens", "expected"),
    [
        (ShiftSpec(), "auto", 4096, 1.0),
        (ShiftSpec(kind="constant", value=5.0), "auto", 4096, 5.0),
        (ShiftSpec(kind="constant", value=5.0), 2.0, 4096, 2.0),
        (FLUX, "auto", 256, math.exp(0.5)),
        (FLUX, "auto", 4096, math.exp(1.15)),
        (FLUX, "auto", 2176, math.exp(0.825)),
        (FLUX, 3.0, 4096, 3.0),
        (ShiftSpec(kind="constant", value=5.0), "resolution", 4096, math.exp(1.15)),
    ],
)
def test_factor(spec, setting, tokens, expected):
    assert shift.factor(spec, setting, tokens) == pytest.approx(expected)
