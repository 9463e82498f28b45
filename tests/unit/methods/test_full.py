from __future__ import annotations

import pytest
import torch

from tests.unit.methods.conftest import section
from tuner.errors import CheckpointError
from tuner.methods import AdapterAttachment, attach


def test_trains_every_parameter_in_place(net, component):
    full = attach(net, section(kind="full"), component, seed=0, dtype=torch.float32)
    assert not isinstance(full, AdapterAttachment)
    assert full.parameters().keys() == dict(net.named_parameters()).keys()
    assert all(full.parameters()[name] is parameter for name, parameter in net.named_parameters())
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_trains_in_the_given_dtype_except_what_the_spec_keeps(net, component):
    full = attach(net, section(kind="full"), component, seed=0, dtype=torch.bfloat16)
    dtypes = {name: parameter.dtype for name, parameter in full.parameters().items()}
    assert dtypes["norm.weight"] == torch.float32
    assert {dtype for name, dtype in dtypes.items() if "norm" not in name} == {torch.bfloat16}


def test_state_round_trip(net, component, pixels):
    full = attach(net, section(kind="full"), component, seed=0, dtype=torch.float32)
    saved = {name: tensor.clone() for name, tensor in full.state().items()}
    before = net(pixels)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1.0)
    full.load_state(saved)
    assert torch.equal(net(pixels), before)
    with pytest.raises(CheckpointError):
        full.load_state({})
