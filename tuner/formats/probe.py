"""What a trained component answers on fixed inputs: kept while the component is freed, to judge the saved file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tuner.families.base import Cond, Family, Latents
from tuner.methods.base import AdapterAttachment, Attachment


class Inputs(Protocol):
    """Fixed inputs of one component."""

    def run(self, module: nn.Module, family: Family, device: torch.device, dtype: torch.dtype) -> Tensor:
        """The component's answer, flattened, (N,) float32 on the CPU."""
        ...


@dataclass(frozen=True)
class DenoiserInputs:
    """What a family's ``predict`` takes, without the network."""

    x_t: Latents
    t: Tensor
    cond: Cond
    guidance: float | None

    def run(self, module: nn.Module, family: Family, device: torch.device, dtype: torch.dtype) -> Tensor:
        """The prediction for all modalities, one behind the other."""
        x_t = {name: latents.to(device, dtype) for name, latents in self.x_t.items()}
        answer = family.predict(module, x_t, self.t.to(device), self.cond.to(device, dtype), self.guidance)
        return _flat(answer)


@dataclass(frozen=True)
class EncoderInputs:
    """Token ids for a text encoder, (B, L) int64."""

    input_ids: Tensor

    def run(self, module: nn.Module, family: Family, device: torch.device, dtype: torch.dtype) -> Tensor:
        """All tensors the encoder answers with."""
        answer: Mapping[str, Any] = module(input_ids=self.input_ids.to(device))
        return _flat({name: value for name, value in answer.items() if isinstance(value, Tensor)})


def encoder_inputs(encoder: nn.Module, seed: int, tokens: int = 16) -> EncoderInputs:
    """Random token ids that ``encoder`` knows."""
    config: Any = encoder.config
    generator = torch.Generator().manual_seed(seed)
    return EncoderInputs(torch.randint(config.vocab_size, (1, tokens), generator=generator))


@dataclass(frozen=True)
class Probe:
    """One component's answers. All but the first two fields are those of adapters."""

    inputs: Inputs
    trained: Tensor
    base: Tensor | None = None
    update_norm: float | None = None
    rows: dict[str, int] = field(default_factory=dict)
    layers: frozenset[str] = frozenset()
    """Names of the adapted layers."""


@torch.no_grad()
def record(
    module: nn.Module,
    family: Family,
    inputs: Inputs,
    attachment: Attachment,
    *,
    device: torch.device,
    dtype: torch.dtype,
    stored_as: torch.dtype | None = None,
) -> Probe:
    """Let a trained component answer, with its adapter and without.

    The module is left as it was, except where its own weights were trained: those are rounded to ``stored_as``,
    the precision of the file, so that training cannot go on. Otherwise the rounding of the whole weights would
    be judged as an error of the update, which is far smaller than they are.
    """
    with _evaluating(module):
        if not isinstance(attachment, AdapterAttachment):
            for parameter in module.parameters() if stored_as else ():
                parameter.copy_(parameter.to(stored_as))
            return Probe(inputs, inputs.run(module, family, device, dtype))
        trained = inputs.run(module, family, device, dtype)
        with attachment.disabled():
            base = inputs.run(module, family, device, dtype)
    adapter = attachment.adapter()
    return Probe(inputs, trained, base, attachment.update_norm(), adapter.rows, frozenset(adapter.layers))


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Without dropout."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


def _flat(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensors[name].detach().float().cpu().flatten() for name in sorted(tensors)])
