"""What a trained method looks like to the rest: parameters, a state for checkpoints, and a canonical adapter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from tuner.errors import CheckpointError

AdapterKind = Literal["lora", "dora", "lokr", "loha"]

Layer = dict[str, Tensor]
"""The tensors of one adapted layer, float32 on the CPU, every scale already multiplied in.

lora  ``lora_A`` (r, in) and ``lora_B`` (out, r); convolutions (r, in, kh, kw) and (out, r, 1, 1)
dora  also ``magnitude`` (out,), as peft defines it (it multiplies the *changed* weight's unit rows), and
      ``dora_scale`` (out,), the same for readers that divide by the norm of the *original* rows
lokr  ``lokr_w1`` and either ``lokr_w2`` or ``lokr_w2_a``, ``lokr_w2_b``
loha  ``hada_w1_a``, ``hada_w1_b``, ``hada_w2_a``, ``hada_w2_b``
"""


@dataclass(frozen=True)
class Adapter:
    """What was learned for one component, under the module names of diffusers or transformers."""

    kind: AdapterKind
    layers: dict[str, Layer]
    rows: dict[str, int]
    """Output features of every linear and convolution of the component, adapted or not."""


class Attachment(ABC):
    """A method attached to one component. The component's module is changed in place."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    @abstractmethod
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters, by names that stay the same from run to run."""

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds: the parameters themselves (not copies), in the dtype they are trained in."""
        return {name: parameter.detach() for name, parameter in self.parameters().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what ``state`` gave; raises ``CheckpointError`` unless names, shapes and dtypes all agree."""
        own = self.parameters()
        missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if missing or unknown:
            raise CheckpointError(
                f"the checkpoint holds another method or other layers: {len(missing)} tensors are missing "
                f"{missing[:3]}, {len(unknown)} are unknown {unknown[:3]}",
                hint="resume with the method section the run was started with, or choose another folder with --output",
            )
        for name, parameter in own.items():
            given = state[name]
            if given.shape != parameter.shape or given.dtype != parameter.dtype:
                raise CheckpointError(
                    f"the checkpoint's {name} is {given.dtype} {tuple(given.shape)}, "
                    f"expected {parameter.dtype} {tuple(parameter.shape)}",
                    hint="resume with the method section the run was started with",
                )
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(state[name])


class AdapterAttachment(Attachment):
    """A method that leaves the base weights alone."""

    @abstractmethod
    def adapter(self) -> Adapter:
        """The canonical export of the parameters as they are now."""

    @abstractmethod
    def disabled(self) -> AbstractContextManager[None]:
        """While this is open, the component answers as if nothing were attached."""

    @abstractmethod
    def update_norm(self) -> float:
        """Frobenius norm of the change of all weights together."""


def weight_rows(module: nn.Module) -> dict[str, int]:
    """Output features of every linear and convolution in ``module``; call it before anything is attached."""
    return {name: int(layer.weight.shape[0]) for name, layer in module.named_modules() if is_matrix(layer)}


def is_matrix(layer: nn.Module) -> bool:
    """Whether methods can attach to ``layer``: a linear layer or a two-dimensional convolution."""
    return isinstance(layer, nn.Linear | nn.Conv2d)


@contextmanager
def seeded(seed: int) -> Iterator[torch.Generator]:
    """Draw from the CPU's global generator as if seeded with ``seed``, and leave it as it was.

    For libraries that take no generator. GPU generators are not touched: ``torch.manual_seed`` would reset them.
    """
    with torch.random.fork_rng(devices=[]):
        generator = torch.default_generator
        generator.manual_seed(seed)
        yield generator
