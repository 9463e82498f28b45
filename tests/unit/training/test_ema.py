import io

import pytest
import torch
from torch import nn

from tuner.config.schema import EmaSection
from tuner.errors import CheckpointError
from tuner.training.ema import Ema


def parameters(dtype=torch.float32):
    return {
        "a.weight": nn.Parameter(torch.full((2, 3), 1.0, dtype=dtype)),
        "b": nn.Parameter(torch.zeros(4, dtype=dtype)),
    }


def fill(weights, value):
    with torch.no_grad():
        for weight in weights.values():
            weight.fill_(value)


def test_follows_the_published_warm_up_of_the_decay():
    weights = parameters()
    ema = Ema(weights, EmaSection(decay=0.999))
    expected = 1.0
    for step in range(1, 6):
        fill(weights, 2.0 * step)
        ema.update(step)
        decay = min(0.999, step / (9 + step))  # (1 + n) / (10 + n) with n = step - 1
        expected = decay * expected + (1 - decay) * 2.0 * step
    assert torch.allclose(ema.averages["a.weight"], torch.full((2, 3), expected))


def test_the_decay_is_an_upper_bound():
    weights = parameters()
    ema = Ema(weights, EmaSection(decay=0.05))
    fill(weights, 2.0)
    ema.update(1)
    assert torch.allclose(ema.averages["a.weight"], torch.full((2, 3), 0.05 * 1.0 + 0.95 * 2.0))


def test_updates_only_every_so_many_steps():
    weights = parameters()
    ema = Ema(weights, EmaSection(every_steps=3))
    fill(weights, 5.0)
    for step in (1, 2):
        ema.update(step)
    assert (ema.averages["a.weight"] == 1.0).all()
    ema.update(3)
    assert (ema.averages["a.weight"] > 1.0).all()
    assert ema.updates == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_swapped_puts_everything_back_bit_for_bit(dtype):
    weights = {"w": nn.Parameter(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)).to(dtype))}
    ema = Ema(weights, EmaSection())
    fill(weights, 0.1)
    before = weights["w"].detach().clone()
    average = ema.averages["w"].clone()
    with pytest.raises(RuntimeError, match="inside"), ema.swapped():
        assert torch.equal(weights["w"], average.to(dtype))
        raise RuntimeError("inside")
    assert torch.equal(weights["w"], before)
    assert torch.equal(ema.averages["w"], average)


def test_averages_are_float32_and_see_changes_bfloat16_cannot_hold():
    weights = {"w": nn.Parameter(torch.ones(4, dtype=torch.bfloat16))}
    ema = Ema(weights, EmaSection())
    fill(weights, 1.0078125)
    ema.update(1)
    assert ema.averages["w"].dtype == torch.float32
    assert (ema.averages["w"] > 1.0).all()
    assert (ema.averages["w"] < 1.0078125).all()


def test_state_round_trip_goes_on_bit_for_bit():
    def drift(weights, ema, steps):
        for step in steps:
            fill(weights, 1.0 + step / 7)
            ema.update(step)

    weights = parameters()
    ema = Ema(weights, EmaSection())
    drift(weights, ema, range(1, 6))
    stored = io.BytesIO()
    torch.save(ema.state_dict(), stored)
    drift(weights, ema, range(6, 9))
    stored.seek(0)
    other_weights = parameters()
    other = Ema(other_weights, EmaSection())
    other.load_state_dict(torch.load(stored, weights_only=True))
    drift(other_weights, other, range(6, 9))
    for name, average in ema.averages.items():
        assert torch.equal(average, other.averages[name])


def test_state_of_other_weights_is_refused():
    ema = Ema(parameters(), EmaSection())
    other = Ema({"a.weight": nn.Parameter(torch.zeros(3, 3))}, EmaSection())
    with pytest.raises(CheckpointError, match="other weights"):
        ema.load_state_dict(other.state_dict())
