"""Gradient checkpointing by wrapping blocks: recompute a block in the backward pass instead of keeping it.

diffusers' own switch passes only positional arguments, which drops masks in some networks. Wrapping each
block's ``forward`` gives identical gradients for every network.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tuner.catalog.spec import ComponentSpec


def blocks_of(module: nn.Module, component: ComponentSpec) -> Iterator[nn.Module]:
    """The repeated blocks that ``component.blocks`` names: a list's children, or the named module itself.

    Each entry is a regular expression matched against whole module names, so that one line covers networks of
    other depths. Raises ``ValueError`` for an entry that matches nothing (a fault of the spec).
    """
    modules = dict(module.named_modules())
    for pattern in component.blocks:
        found = [modules[name] for name in modules if re.fullmatch(pattern, name)]
        if not found:
            raise ValueError(f"blocks: no module of {type(module).__name__} is called {pattern!r}")
        for block in found:
            if isinstance(block, nn.ModuleList):
                yield from block
            else:
                yield block


def checkpoint_blocks(module: nn.Module, component: ComponentSpec) -> int:
    """Checkpoint every block of ``module`` while gradients are on; returns how many blocks that are."""
    count = 0
    for block in blocks_of(module, component):
        _checkpoint(block)
        count += 1
    return count


def _checkpoint(block: nn.Module) -> None:
    original = block.forward

    @functools.wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return original(*args, **kwargs)
        return checkpoint(original, *args, use_reentrant=False, **kwargs)

    block.forward = forward  # type: ignore[method-assign]
