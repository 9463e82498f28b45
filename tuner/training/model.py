"""The networks of a run: denoisers placed on the device, the method attached, what is trained and what is not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import nn

from tuner import methods
from tuner.config.load import Resolved
from tuner.families.base import Family, Parts, Source
from tuner.memory.checkpointing import checkpoint_blocks
from tuner.memory.placement import Placement
from tuner.methods import targets
from tuner.methods.base import Attachment
from tuner.training.optimizers import Group
from tuner.training.randomness import derived_seed


@dataclass
class Networks:
    """Loaded networks by component name, and the attachments of those that learn."""

    denoisers: dict[str, nn.Module]
    attachments: dict[str, Attachment]
    encoders: Parts = field(default_factory=dict)
    """Text encoders and tokenizers, only when one of the encoders learns."""

    @property
    def trained(self) -> dict[str, nn.Module]:
        """The networks that learn."""
        return {name: self.module(name) for name in self.attachments}

    def module(self, name: str) -> nn.Module:
        """A network by component name."""
        found: nn.Module = self.denoisers[name] if name in self.denoisers else self.encoders[name]
        return found

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Everything that learns, as ``component.parameter``."""
        return {
            f"{name}.{key}": parameter
            for name, attachment in self.attachments.items()
            for key, parameter in attachment.parameters().items()
        }

    def groups(self, learning_rate: float, own: dict[str, float]) -> list[Group]:
        """One optimizer group per component."""
        return [
            Group(name, list(attachment.parameters().values()), own.get(name, learning_rate))
            for name, attachment in self.attachments.items()
        ]

    def train(self) -> None:
        """Dropout on, where there is any."""
        for module in self.trained.values():
            module.train()

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Dropout off inside."""
        for module in self.trained.values():
            module.eval()
        try:
            yield
        finally:
            self.train()


def trained_components(resolved: Resolved) -> list[str]:
    """Names of the components that learn; a learning rate of 0 freezes one."""
    method, training = resolved.preset.method, resolved.preset.training
    names = list(resolved.model.denoisers) if method.train == "default" else method.train
    return [name for name in names if training.learning_rates.get(name, training.learning_rate) > 0]


def place_networks(
    resolved: Resolved, family: Family, source: Source, placement: Placement, encoders: Parts, *, every_denoiser: bool
) -> Networks:
    """Load the denoisers, attach the method, and checkpoint blocks as planned.

    ``encoders`` come loaded when one of them learns. ``every_denoiser`` loads those that do not learn as
    well, which previews and validation need.
    """
    spec, method = family.spec, resolved.preset.method
    names = trained_components(resolved)
    wanted = [name for name in spec.denoisers if every_denoiser or name in names] or list(spec.denoisers)
    denoisers: dict[str, nn.Module] = {}
    for name in wanted:
        denoisers[name] = family.load(name, source, placement.dtype).to(placement.device)
    networks = Networks(denoisers, {}, encoders)
    if method.kind != "full":
        targets.require_used([networks.module(name) for name in names], method)
    for name in names:
        component = spec.components[name]
        networks.attachments[name] = methods.attach(
            networks.module(name),
            method,
            component,
            seed=derived_seed(resolved.preset.training.seed, "attach", name),
            dtype=placement.dtype if method.kind == "full" else torch.float32,
        )
    if placement.gradient_checkpointing:
        for name, module in {**denoisers, **networks.trained}.items():
            checkpoint_blocks(module, spec.components[name])
    networks.train()
    return networks
