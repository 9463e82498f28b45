"""A moving average of the trained weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tuner.config.schema import EmaSection
from tuner.errors import CheckpointError


class Ema:
    """Float32 averages of named parameters, beside them on their own device.

    The n-th update (from 0) keeps min(decay, (1 + n) / (10 + n)) of the average, so that it leaves the initial
    weights quickly.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], section: EmaSection) -> None:
        self.parameters = dict(parameters)
        self.section = section
        self.updates = 0
        self.averages = {
            name: parameter.detach().to(torch.float32, copy=True) for name, parameter in self.parameters.items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimizer step ``step``, if it is one of every ``every_steps``."""
        if step % self.section.every_steps:
            return
        decay = min(self.section.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, parameter in self.parameters.items():
            self.averages[name].lerp_(parameter.float(), 1.0 - decay)

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """The averages in the place of the weights inside; afterwards every weight is bit for bit what it was.

        Takes as much memory again as the trained weights.
        """
        trained = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self._fill(self.averages)
        try:
            yield
        finally:
            self._fill(trained)

    @torch.no_grad()
    def _fill(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])

    def state_dict(self) -> dict[str, Any]:
        """The averages themselves (not copies) and the number of updates, for a checkpoint."""
        return {"updates": self.updates, "averages": dict(self.averages)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave; raises ``CheckpointError`` when it is of other parameters."""
        saved: Mapping[str, Tensor] = state["averages"]
        shapes = {name: average.shape for name, average in self.averages.items()}
        if {name: average.shape for name, average in saved.items()} != shapes:
            raise CheckpointError(
                "the checkpoint's moving average is of other weights",
                hint="resume with the method section the run was started with, or choose another folder with --output",
            )
        self.updates = int(state["updates"])
        for name, average in self.averages.items():
            average.copy_(saved[name])
