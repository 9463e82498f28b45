"""Optimizer steps on bfloat16 weights that keep updates smaller than the weights' precision.

A bfloat16 weight has 8 bits: an update below 1/256 of it rounds away. Here every weight is stepped in float32,
one tensor at a time, so that the float32 copy never costs more than the largest tensor.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tuner.errors import CheckpointError
from tuner.training.randomness import derived_seed

Rounding = Literal["stochastic", "kahan", "plain"]
Groups = list[dict[str, Any]]
Factory = Callable[[Groups], Optimizer]
"""Makes the optimizer that does the step, for groups with ``params`` and ``lr``."""

PROBE_STEPS = 40
"""Steps after which weights that an optimizer mixes have gone different ways (Prodigy takes 20 to start)."""


@dataclass
class Slot:
    """One parameter, and the optimizer that steps it alone."""

    parameter: nn.Parameter
    group: dict[str, Any]
    shadow: nn.Parameter
    """What ``inner`` steps: the parameter itself, or a float32 stand-in that is empty between steps."""
    inner: Optimizer
    compensation: Tensor | None
    """bfloat16 rest that the parameter could not hold (kahan)."""

    @property
    def is_bf16(self) -> bool:
        """Whether the parameter needs a stand-in."""
        return self.shadow is not self.parameter

    @contextlib.contextmanager
    def filled(self) -> Iterator[None]:
        """The stand-in holds the weight's value inside, and no memory afterwards."""
        if self.is_bf16:
            value = self.parameter.detach().float()
            self.shadow.data = value if self.compensation is None else value.add_(self.compensation)
        try:
            yield
        finally:
            if self.is_bf16:
                self.shadow.data = hollow(self.parameter)
                self.shadow.grad = None


class Bf16Optimizer(Optimizer):
    """Any optimizer whose parameters do not depend on each other, on bfloat16 weights (others pass through).

    ``param_groups`` hold the weights themselves and the learning rates, which count; everything else stays with
    one inner optimizer for each parameter. Optimizer state is float32, as if the weights were. Roundings:

    stochastic  up or down with the probability that keeps the mean (Zamirai et al. 2020, arXiv:2010.06192);
                drawn anew from ``seed``, the step and the parameter's position, so there is no state
    kahan       what rounding loses is kept in a second bfloat16 tensor and added before the next step (same);
                both together hold 16 bits, so only updates below 1/65536 of a weight are lost
    plain       to the nearest
    """

    def __init__(self, groups: Groups, factory: Factory, rounding: Rounding, seed: int) -> None:
        super().__init__(groups, {})
        self._rounding = rounding
        self._seed = seed
        self._steps = 0
        self._slots = [
            self._slot(parameter, group, factory) for group in self.param_groups for parameter in group["params"]
        ]

    def _slot(self, parameter: nn.Parameter, group: dict[str, Any], factory: Factory) -> Slot:
        shadow, compensation = parameter, None
        if parameter.dtype == torch.bfloat16:
            shadow = nn.Parameter(hollow(parameter))
            compensation = torch.zeros_like(parameter) if self._rounding == "kahan" else None
        return Slot(parameter, group, shadow, factory([{"params": [shadow], "lr": group["lr"]}]), compensation)

    @property
    def averages(self) -> bool:
        """Whether the inner optimizers are schedule-free: what they train is not what they have learned."""
        return any(hasattr(slot.inner, "eval") for slot in self._slots)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        self._steps += 1
        for position, slot in enumerate(self._slots):
            if slot.parameter.grad is None:
                continue
            slot.inner.param_groups[0]["lr"] = slot.group["lr"]
            with slot.filled():
                if slot.is_bf16:
                    slot.shadow.grad = slot.parameter.grad.float()
                slot.inner.step()
                if slot.is_bf16:
                    self._write_back(slot, position)

    def _write_back(self, slot: Slot, position: int) -> None:
        value = slot.shadow.detach()
        if self._rounding == "stochastic":
            generator = torch.Generator(value.device)
            generator.manual_seed(derived_seed(self._seed, "rounding", self._steps, position))
            value = stochastically_rounded(value, generator)
        slot.parameter.copy_(value)
        if slot.compensation is not None:
            slot.compensation.copy_(value - slot.parameter.float())

    @torch.no_grad()
    def eval(self) -> None:
        """Put what schedule-free optimizers have learned into the parameters, rounded to the nearest."""
        for slot in self._slots:
            with slot.filled():
                slot.inner.eval()  # type: ignore[attr-defined]
                slot.parameter.copy_(slot.shadow)

    @torch.no_grad()
    def train(self) -> None:
        """Let schedule-free optimizers step again; the caller puts the parameters back (rounding lost them)."""
        for slot in self._slots:
            with slot.filled():
                slot.inner.train()  # type: ignore[attr-defined]
                slot.parameter.copy_(slot.shadow)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the parameters, for a bit-exact resume."""
        return {
            "steps": self._steps,
            "inner": [slot.inner.state_dict() for slot in self._slots],
            "compensation": [slot.compensation for slot in self._slots],
        }

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave; raises ``CheckpointError`` when it is of other parameters."""
        inner, compensation = state_dict["inner"], state_dict["compensation"]
        kept = [slot.compensation is not None for slot in self._slots]
        if len(inner) != len(self._slots) or [rest is not None for rest in compensation] != kept:
            raise CheckpointError(
                "the checkpoint's optimizer state is of other weights or another rounding",
                hint="resume with the training section the run was started with",
            )
        self._steps = int(state_dict["steps"])
        for slot, own, rest in zip(self._slots, inner, compensation, strict=True):
            slot.inner.load_state_dict(own)
            if slot.compensation is not None:
                slot.compensation.copy_(rest)


def hollow(like: Tensor) -> Tensor:
    """A float32 tensor of the same shape and device that takes no memory; to be replaced before it is read."""
    return torch.zeros((), dtype=torch.float32, device=like.device).expand(like.shape)


def stochastically_rounded(value: Tensor, generator: torch.Generator) -> Tensor:
    """Finite float32 ``value`` in bfloat16, rounded up with the probability of its distance from below.

    bfloat16 is the upper half of float32: adding uniform bits to the lower half carries exactly that often.
    """
    dither = torch.randint(0, 1 << 16, value.shape, dtype=torch.int32, device=value.device, generator=generator)
    bits = dither.add_(value.contiguous().view(torch.int32)).bitwise_and_(-(1 << 16))
    return bits.view(torch.float32).to(torch.bfloat16)


def mixes_parameters(factory: Factory, device: torch.device) -> bool:
    """Whether a parameter moves differently when another one is in the same optimizer (Prodigy's common rate).

    Found by trying it: two small parameters, a few steps, together and each alone.
    """

    def moved(parts: list[int]) -> list[Tensor]:
        weights = [nn.Parameter(torch.zeros(8, 8, device=device)) for _ in parts]
        optimizer = factory([{"params": weights}])
        for step in range(PROBE_STEPS):
            for part, weight in zip(parts, weights, strict=True):
                # One goes one way, the other to and fro: what is true of one is not true of both.
                direction = 1.0 if part == 0 else 3.0 * (-1.0) ** step
                weight.grad = direction * torch.linspace(0.5, 1.0, 64, device=device).view(8, 8)
            optimizer.step()
        return [weight.detach() for weight in weights]

    together = moved([0, 1])
    alone = [*moved([0]), *moved([1])]
    return not all(torch.allclose(a, b, rtol=1e-4, atol=0.0) for a, b in zip(together, alone, strict=True))
