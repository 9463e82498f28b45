from __future__ import annotations

import copy
import math

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from tests.unit.methods.conftest import Net, randomise, section
from tuner.errors import CheckpointError
from tuner.methods import AdapterAttachment, attach

EVERYWHERE = ["conv_in", "to_q", "to_out.0", "ff", "proj_out"]


def attached(net, component, *, seed=0, dtype=torch.float32, **values):
    return attach(net, section(**values), component, seed=seed, dtype=dtype)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_starts_as_the_base_model(net, component, pixels, kind):
    before = net(pixels)
    attached(net, component, kind=kind, rank=4, targets=EVERYWHERE)
    torch.testing.assert_close(net(pixels), before, rtol=1e-5, atol=1e-6)


def test_only_the_adapter_is_trained_and_names_are_stable(net, component):
    lora = attached(net, component, rank=4)
    trained = [name for name, parameter in net.named_parameters() if parameter.requires_grad]
    assert len(trained) == len(lora.parameters()) == 12
    assert list(lora.parameters())[:2] == ["blocks.0.attn.to_q.lora_A", "blocks.0.attn.to_q.lora_B"]


def test_a_name_that_ends_another_is_not_confused_with_it(component):
    # peft reads a list of names as endings: `proj` would also hit `inner.proj`.
    net = nn.ModuleDict({"proj": nn.Linear(4, 4), "inner": nn.ModuleDict({"proj": nn.Linear(4, 4)})})
    lora = attached(net, component, rank=2, targets=["^proj$"])
    assert list(lora.parameters()) == ["proj.lora_A", "proj.lora_B"]


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("rslora", [False, True])
def test_forward_equals_pefts_own(net, component, pixels, kind, rslora):
    reference = copy.deepcopy(net)
    lora = attached(net, component, kind=kind, rank=4, alpha=6.0, rslora=rslora, targets=EVERYWHERE)
    randomise(lora)
    config = LoraConfig(r=4, lora_alpha=6.0, use_rslora=rslora, use_dora=kind == "dora", target_modules=EVERYWHERE)
    inject_adapter_in_model(config, reference)
    theirs = dict(reference.named_parameters())
    with torch.no_grad():
        for name, parameter in lora.parameters().items():
            layer, _, factor = name.rpartition(".")
            inner = {"magnitude": "lora_magnitude_vector.default.weight"}.get(factor, f"{factor}.default.weight")
            theirs[f"{layer}.{inner}"].copy_(parameter)
    torch.testing.assert_close(net(pixels), reference(pixels), rtol=1e-5, atol=1e-5)


def kept_for_backward(net, pixels) -> tuple[torch.Tensor, list[torch.dtype]]:
    """The answer, and the dtypes of the saved tensors at least as large as one activation."""
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        answer = net(pixels)
    return answer, [tensor.dtype for tensor in kept if tensor.numel() >= answer.numel()]


def test_no_float32_activation_is_kept_for_backward(net, component, pixels):
    net.to(torch.bfloat16)
    lora = attached(net, component, rank=4, targets=EVERYWHERE)
    randomise(lora)
    answer, dtypes = kept_for_backward(net, pixels.bfloat16())
    assert len(dtypes) > 5
    assert set(dtypes) == {torch.bfloat16}
    answer.sum().backward()
    gradients = [parameter.grad for parameter in lora.parameters().values()]
    assert all(gradient.dtype == torch.float32 and gradient.abs().sum() > 0 for gradient in gradients)


def test_the_same_check_catches_pefts_cast(net, pixels):
    # Proves that the test above can fail: peft's own layers do keep float32 copies.
    net.to(torch.bfloat16)
    inject_adapter_in_model(LoraConfig(r=4, target_modules=EVERYWHERE), net)
    for name, parameter in net.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
    assert torch.float32 in kept_for_backward(net, pixels.bfloat16())[1]


def test_initial_weights_come_from_the_seed_alone(net, component):
    torch.manual_seed(111)
    drawn_before = torch.get_rng_state()
    first = attached(copy.deepcopy(net), component, rank=4, seed=5).state()
    assert torch.equal(torch.get_rng_state(), drawn_before)
    torch.manual_seed(222)
    again = attached(copy.deepcopy(net), component, rank=4, seed=5).state()
    other = attached(copy.deepcopy(net), component, rank=4, seed=6).state()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["blocks.0.ff.lora_A"], other["blocks.0.ff.lora_A"])


def test_initial_spread_is_that_of_a_linear_layer(net, component):
    down = attached(net, component, rank=64).state()["blocks.0.ff.lora_A"]
    bound = 1 / math.sqrt(24)
    assert down.abs().max() <= bound
    assert 0.9 * bound < down.abs().max()


def test_adapters_keep_their_own_dtype(net, component):
    net.to(torch.bfloat16)
    lora = attached(net, component, rank=4)
    assert {parameter.dtype for parameter in lora.parameters().values()} == {torch.float32}


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_disabled_gives_the_base_model_and_keeps_flags(net, component, pixels, kind):
    before = net(pixels)
    lora = attached(net, component, kind=kind, rank=4, targets=EVERYWHERE)
    randomise(lora)
    frozen = lora.parameters()["conv_in.lora_A"].requires_grad_(False)
    changed = net(pixels)
    assert (changed - before).abs().max() > 1e-3
    with lora.disabled():
        torch.testing.assert_close(net(pixels), before, rtol=0, atol=0)
    torch.testing.assert_close(net(pixels), changed, rtol=0, atol=0)
    assert not frozen.requires_grad
    assert lora.parameters()["conv_in.lora_B"].requires_grad


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_the_canonical_adapter_holds_the_whole_change(net, component, pixels, kind):
    base = Net().eval()
    base.load_state_dict(net.state_dict())
    lora = attached(net, component, kind=kind, rank=4, alpha=7.0, rslora=True, targets=EVERYWHERE)
    randomise(lora)
    adapter = lora.adapter()
    assert adapter.kind == kind
    assert adapter.rows["proj_out"] == 24
    assert "norm" not in adapter.rows
    squares = 0.0
    with torch.no_grad():
        for name, layer in adapter.layers.items():
            weight = base.get_parameter(f"{name}.weight")
            changed = weight + (layer["lora_B"].flatten(1) @ layer["lora_A"].flatten(1)).reshape(weight.shape)
            if kind == "dora":
                shape = (-1, *[1] * (weight.ndim - 1))
                by_original = changed * (layer["dora_scale"] / weight.flatten(1).norm(dim=1)).reshape(shape)
                changed = changed * (layer["magnitude"] / changed.flatten(1).norm(dim=1)).reshape(shape)
                torch.testing.assert_close(by_original, changed)
            squares += float((changed - weight).square().sum())
            weight.copy_(changed)
    torch.testing.assert_close(base(pixels), net(pixels), rtol=1e-4, atol=1e-5)
    assert lora.update_norm() == pytest.approx(math.sqrt(squares), rel=1e-4)


def test_fresh_adapter_has_no_update(net, component):
    assert attached(net, component, rank=4).update_norm() == 0.0


def test_rank_pattern_gives_other_ranks_at_scale_one(net, component):
    lora = attached(net, component, rank=4, rank_pattern={"ff": 9})
    assert lora.parameters()["blocks.0.ff.lora_A"].shape == (9, 24)
    assert lora.parameters()["blocks.1.attn.to_q.lora_A"].shape == (4, 24)
    assert {layer.scaling["default"] for layer in lora._layers.values()} == {1.0}


def test_rank_pattern_with_alpha_scales_by_each_rank(net, component):
    lora = attached(net, component, rank=4, alpha=8.0, rank_pattern={"ff": 16})
    assert lora._layers["blocks.0.ff"].scaling["default"] == 0.5
    assert lora._layers["blocks.0.attn.to_q"].scaling["default"] == 2.0


def test_dropout_works_in_training_only(net, component, pixels):
    lora = attached(net, component, rank=4, dropout=0.5)
    randomise(lora)
    net.train()
    assert not torch.equal(net(pixels), net(pixels))
    net.eval()
    assert torch.equal(net(pixels), net(pixels))


def test_state_round_trip_continues_exactly(net, component, pixels):
    first = attached(copy.deepcopy(net), component, rank=4)
    randomise(first)
    saved = {name: tensor.clone() for name, tensor in first.state().items()}
    second = attached(net, component, rank=4, seed=9)
    second.load_state(saved)
    assert torch.equal(first.module(pixels), net(pixels))


def test_load_state_is_strict(net, component):
    lora = attached(net, component, rank=4)
    state = {name: tensor.clone() for name, tensor in lora.state().items()}
    kept = {name: tensor.clone() for name, tensor in state.items()}
    short = dict(list(state.items())[1:])
    for wrong in (
        short,
        state | {"more.lora_A": torch.zeros(1)},
        state | {"blocks.0.ff.lora_A": torch.zeros(5, 24)},
        state | {"blocks.0.ff.lora_A": torch.zeros(4, 24, dtype=torch.bfloat16)},
    ):
        with pytest.raises(CheckpointError):
            lora.load_state(wrong)
    assert all(torch.equal(lora.state()[name], kept[name]) for name in kept)


def test_works_on_transformers_text_encoders(component):
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    encoder = CLIPTextModel(
        CLIPTextConfig(vocab_size=20, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    )
    encoder.eval()
    ids = torch.tensor([[1, 4, 5, 2]])
    before = encoder(ids).last_hidden_state
    lora = attached(encoder, component, rank=2, targets=["q_proj", "fc1"])
    assert isinstance(lora, AdapterAttachment)
    assert len(lora.parameters()) == 4
    randomise(lora)
    assert (encoder(ids).last_hidden_state - before).abs().max() > 1e-4
    with lora.disabled():
        assert torch.equal(encoder(ids).last_hidden_state, before)
