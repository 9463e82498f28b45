"""Full fine-tuning: the weights themselves are trained, in place."""

from __future__ import annotations

import torch
from torch import nn

from tuner.catalog.spec import ComponentSpec
from tuner.methods.base import Attachment


def attach(module: nn.Module, component: ComponentSpec, *, dtype: torch.dtype) -> FullAttachment:
    """Make every parameter of ``module`` trainable in ``dtype``; those the spec keeps in float32 stay there.

    Nothing of the weights before training is kept, which would double the memory: there is no way back to the
    base model and no difference to export.
    """
    for name, parameter in module.named_parameters():
        kept = any(part in name.split(".") for part in component.keep_fp32)
        parameter.data = parameter.data.to(torch.float32 if kept else dtype)
    module.requires_grad_(True)
    return FullAttachment(module)


class FullAttachment(Attachment):
    """All weights of one component."""

    def parameters(self) -> dict[str, nn.Parameter]:
        """The module's own names; weights that are tied appear once."""
        return dict(self.module.named_parameters())
