"""Positions in the distribution of noise levels for one effective batch."""

from __future__ import annotations

import torch
from torch import Tensor


def stratified(count: int, generator: torch.Generator) -> Tensor:
    """One position in each of ``count`` equal parts of (0, 1), in random order; (count,) float64 on the CPU.

    Each position alone is still uniform, so the loss keeps its expectation and loses variance.
    """
    order = torch.randperm(count, generator=generator)
    return (order + uniform(count, generator)) / count


def uniform(count: int, generator: torch.Generator) -> Tensor:
    """Independent positions in (0, 1); (count,) float64 on the CPU."""
    # Open at both ends: the quantiles of 0 and 1 are no levels that can be trained.
    return torch.rand(count, generator=generator, dtype=torch.float64).clamp_(2.0**-53, 1.0 - 2.0**-53)
