from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from tests.unit.methods.conftest import randomise, section
from tuner.methods import attach

EVERYWHERE = ["conv_in", "to_q", "to_out.0", "ff", "proj_out"]
CASES = [
    {"kind": "lokr", "rank": 2, "alpha": 3.0},
    {"kind": "lokr", "rank": 2, "factor": 4, "alpha": 3.0},
    {"kind": "lokr", "rank": 64},
    {"kind": "loha", "rank": 3, "alpha": 2.0},
]


def attached(net, component, *, seed=0, dtype=torch.float32, **values):
    return attach(net, section(targets=EVERYWHERE, **values), component, seed=seed, dtype=dtype)


def change(layer: dict[str, torch.Tensor]) -> torch.Tensor:
    """dW from the definition in the papers, without any scale of its own."""
    if "hada_w1_a" in layer:
        return (layer["hada_w1_a"] @ layer["hada_w1_b"]) * (layer["hada_w2_a"] @ layer["hada_w2_b"])
    w2 = layer["lokr_w2"] if "lokr_w2" in layer else layer["lokr_w2_a"] @ layer["lokr_w2_b"]
    return torch.kron(layer["lokr_w1"], w2.flatten(1) if w2.ndim == 2 else w2.reshape(w2.shape[0], -1))


@pytest.mark.parametrize("values", CASES)
def test_starts_as_the_base_model_and_can_be_disabled(net, component, pixels, values):
    before = net(pixels)
    adapter = attached(net, component, **values)
    assert torch.equal(net(pixels), before)
    randomise(adapter)
    changed = net(pixels)
    assert (changed - before).abs().max() > 1e-3
    with adapter.disabled():
        assert torch.equal(net(pixels), before)
    assert torch.equal(net(pixels), changed)


@pytest.mark.parametrize("values", CASES)
def test_the_canonical_adapter_holds_the_whole_change(net, component, pixels, values):
    base = copy.deepcopy(net)
    attachment = attached(net, component, **values)
    randomise(attachment)
    squares = 0.0
    with torch.no_grad():
        for name, layer in attachment.adapter().layers.items():
            weight = base.get_parameter(f"{name}.weight")
            if weight.ndim == 4 and "lokr_w2" in layer:
                delta = torch.kron(layer["lokr_w1"][..., None, None], layer["lokr_w2"])
            else:
                delta = change(layer).reshape(weight.shape)
            weight.add_(delta)
            squares += float(delta.square().sum())
    torch.testing.assert_close(net(pixels), base(pixels), rtol=1e-4, atol=1e-5)
    assert attachment.update_norm() == pytest.approx(math.sqrt(squares), rel=1e-4)


@pytest.mark.parametrize("kind", ["lokr", "loha"])
def test_bfloat16_base_does_not_round_the_update_away(net, component, kind):
    net.to(torch.bfloat16)
    attachment = attached(net, component, kind=kind, rank=2)
    with torch.no_grad():
        for parameter in attachment.parameters().values():
            parameter.copy_(torch.randn_like(parameter) * 0.02)
    x = torch.randn(4, 24).bfloat16()
    layer = net.blocks[0].ff
    with attachment.disabled():
        base = layer(x).float()
    delta = change(attachment.adapter().layers["blocks.0.ff"])
    wanted = F.linear(x.float(), delta)
    spacing = base.abs().max() * 2**-8
    assert ((layer(x).float() - base) - wanted).abs().max() <= spacing


@pytest.mark.parametrize("kind", ["lokr", "loha"])
def test_gradients_reach_float32_parameters(net, component, pixels, kind):
    net.to(torch.bfloat16)
    attachment = attached(net, component, kind=kind, rank=2)
    randomise(attachment)
    net(pixels.bfloat16()).float().square().mean().backward()
    parameters = attachment.parameters().values()
    assert all(p.dtype == torch.float32 and p.grad.abs().sum() > 0 for p in parameters)
    assert [n for n, p in net.named_parameters() if p.requires_grad and "lycoris" not in n] == []


@pytest.mark.parametrize("kind", ["lokr", "loha"])
def test_initial_weights_come_from_the_seed_alone(net, component, kind):
    torch.manual_seed(111)
    drawn_before = torch.get_rng_state()
    first = attached(copy.deepcopy(net), component, kind=kind, rank=2, seed=5).state()
    assert torch.equal(torch.get_rng_state(), drawn_before)
    torch.manual_seed(222)
    again = attached(copy.deepcopy(net), component, kind=kind, rank=2, seed=5).state()
    other = attached(copy.deepcopy(net), component, kind=kind, rank=2, seed=6).state()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("kind", ["lokr", "loha"])
def test_dropout_works_in_training_only_and_says_nothing(net, component, pixels, capsys, kind):
    randomise(attached(net, component, kind=kind, rank=2, dropout=0.5))
    net.train()
    assert not torch.equal(net(pixels), net(pixels))
    net.eval()
    assert torch.equal(net(pixels), net(pixels))
    assert capsys.readouterr().out == ""


def test_moves_with_the_network(net, component):
    attachment = attached(net, component, kind="lokr", rank=2)
    net.to("meta")
    assert {parameter.device.type for parameter in attachment.parameters().values()} == {"meta"}
