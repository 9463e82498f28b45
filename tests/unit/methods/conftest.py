"""A small network with the things methods meet: nested blocks, same endings in several places, a convolution."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tuner.catalog.spec import ComponentSpec
from tuner.config.schema import MethodSection

COMPONENT = ComponentSpec.model_validate(
    {
        "class": "toy.Net",
        "role": "denoiser",
        "keep_fp32": ["norm"],
        "lora_targets": [r"blocks\.\d+\.attn\.(to_q|to_out\.0)", r"blocks\.\d+\.ff"],
    }
)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.ModuleDict(
            {"to_q": nn.Linear(width, width), "to_out": nn.ModuleList([nn.Linear(width, width, bias=False)])}
        )
        self.ff = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn["to_out"][0](torch.tanh(self.attn["to_q"](x)))
        return x + torch.tanh(self.ff(x))


class Net(nn.Module):
    """(B, 3, h, w) -> (B, N, width)."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList([Block(width), Block(width)])
        self.proj_out = nn.Linear(width, width)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv_in(pixels).flatten(2).transpose(1, 2))
        for block in self.blocks:
            x = block(x)
        return self.proj_out(x)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().requires_grad_(False).eval()


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def component() -> ComponentSpec:
    return COMPONENT


def section(**values) -> MethodSection:
    return MethodSection(**values)


def randomise(attachment, seed: int = 3) -> None:
    """What training would do: every parameter somewhere else."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in attachment.parameters().values():
            noise = torch.randn(parameter.shape, generator=generator) * 0.1
            parameter.add_(noise.to(parameter))
