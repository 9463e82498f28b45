"""What is trained, and how it is attached."""

from __future__ import annotations

import torch
from torch import nn

from tuner.catalog.spec import ComponentSpec
from tuner.config.schema import MethodSection
from tuner.methods.base import Adapter, AdapterAttachment, Attachment
from tuner.methods.targets import resolve

__all__ = ["Adapter", "AdapterAttachment", "Attachment", "attach"]


def attach(
    module: nn.Module, section: MethodSection, component: ComponentSpec, *, seed: int, dtype: torch.dtype
) -> Attachment:
    """Attach the method of a preset to one component, which is changed in place.

    ``dtype`` is what the trained parameters are kept in, whatever the dtype of the frozen weights. Adapters
    follow ``module`` when it moves to another device. Raises ``ConfigError`` when no layer is a target.
    """
    if section.kind == "full":
        from tuner.methods import full

        return full.attach(module, component, dtype=dtype)
    names = resolve(module, section, component)
    if section.kind in ("lora", "dora"):
        from tuner.methods import lora

        return lora.attach(module, names, section, seed=seed, dtype=dtype)
    from tuner.methods import lycoris

    return lycoris.attach(module, names, section, seed=seed, dtype=dtype)
