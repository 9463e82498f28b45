"""Everything random in a run, as a function of its seed and position, so that a resumed run repeats nothing.

Data order, noise and timesteps come from generators made anew for every micro-step: their state needs no
saving. Only what draws from the global generators (dropout) is saved with the checkpoint.
"""

from __future__ import annotations

import hashlib
import random
from typing import Any

import torch
from torch import Tensor


def derived_seed(*parts: int | str) -> int:
    """A 63-bit seed from a tuple of numbers and names; different tuples give unrelated seeds."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator for one purpose at one position; the same on every kind of device."""
    return torch.Generator().manual_seed(derived_seed(*parts))


def noise_like(tensors: dict[str, Tensor], source: torch.Generator) -> dict[str, Tensor]:
    """Standard normal noise of each tensor's shape, float32 on the CPU, modality by modality."""
    return {name: torch.randn(tensor.shape, generator=source) for name, tensor in tensors.items()}


def global_states() -> dict[str, Any]:
    """The global generators' states, in types that ``weights_only`` loading accepts."""
    states: dict[str, Any] = {"torch": torch.get_rng_state()}
    version, words, gauss = random.getstate()
    states["python"] = [version, list(words), gauss]
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def restore_global_states(states: dict[str, Any]) -> None:
    """Put the global generators where ``global_states`` found them."""
    torch.set_rng_state(states["torch"])
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])


def seed_everything(seed: int) -> None:
    """Seed the global generators at the start of a run (numpy is not used in training)."""
    random.seed(derived_seed(seed, "python"))
    torch.manual_seed(derived_seed(seed, "torch"))
