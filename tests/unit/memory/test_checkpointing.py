import pytest
import torch
from torch import nn

from tuner.catalog.spec import ComponentSpec
from tuner.memory.checkpointing import checkpoint_blocks


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.calls = 0

    def forward(self, x, *, mask):
        self.calls += 1
        return torch.tanh(self.linear(x)) * mask


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.middle = Block()

    def forward(self, x, mask):
        for block in self.blocks:
            x = block(x, mask=mask)
        return self.middle(x, mask=mask)


COMPONENT = ComponentSpec.model_validate({"class": "x.Y", "role": "denoiser", "blocks": ["blocks", "middle"]})


def test_gradients_stay_equal_and_keyword_masks_arrive():
    torch.manual_seed(0)
    plain, wrapped = Network(), Network()
    wrapped.load_state_dict(plain.state_dict())
    assert checkpoint_blocks(wrapped, COMPONENT) == 3
    x, mask = torch.randn(4, 8), torch.tensor([1.0, 0.0, 1.0, 1.0])[:, None]
    for network in (plain, wrapped):
        network(x, mask).square().sum().backward()
    for expected, found in zip(plain.parameters(), wrapped.parameters(), strict=True):
        assert torch.equal(expected.grad, found.grad)
    assert [block.calls for block in (*wrapped.blocks, wrapped.middle)] == [2, 2, 2]


def test_without_gradients_nothing_is_computed_twice():
    network = Network()
    checkpoint_blocks(network, COMPONENT)
    with torch.no_grad():
        network(torch.randn(1, 8), torch.ones(1, 1))
    assert network.middle.calls == 1


def test_a_name_that_matches_nothing_is_a_fault_of_the_spec():
    component = COMPONENT.model_copy(update={"blocks": ["layers"]})
    with pytest.raises(ValueError, match="no module of Network is called 'layers'"):
        checkpoint_blocks(Network(), component)


def test_one_expression_names_many():
    component = COMPONENT.model_copy(update={"blocks": [r"blocks\.\d+"]})
    assert checkpoint_blocks(Network(), component) == 2
