"""Moving noise levels towards noise, by a constant or by the number of tokens, and back."""

from __future__ import annotations

import math
from typing import Literal, TypeVar

from torch import Tensor

from tuner.catalog.spec import ShiftSpec

Level = TypeVar("Level", float, Tensor)


def apply(level: Level, factor: float) -> Level:
    """s t / (1 + (s - 1) t): levels in [0, 1] moved towards 1 for s > 1 (Esser et al. 2024, arXiv:2403.03206, eq. 23).

    The resolution shift e^mu / (e^mu + 1/t - 1) is the same curve with s = e^mu.
    """
    return factor * level / (1 + (factor - 1) * level)


def invert(level: Level, factor: float) -> Level:
    """The level that ``apply`` moves to ``level``."""
    return level / (factor - (factor - 1) * level)


def factor(spec: ShiftSpec, setting: float | Literal["auto", "resolution"], tokens: int) -> float:
    """The s of ``apply`` for a sample of ``tokens`` denoiser tokens.

    ``resolution`` takes mu from ``spec``, whatever the kind of the model's own shift: its numbers are Flux.1's
    where a model has none.
    """
    if isinstance(setting, float):
        return setting
    kind = spec.kind if setting == "auto" else setting
    if kind == "none":
        return 1.0
    if kind == "constant":
        return spec.value
    slope = (spec.max_shift - spec.base_shift) / (spec.max_tokens - spec.base_tokens)
    return math.exp(spec.base_shift + slope * (tokens - spec.base_tokens))
