"""LoKr and LoHa through lycoris-lora.

LoKr: W' = W + s (w1 kron w2), where w2 may be a product of two rank-r factors; LoHa:
W' = W + s (w1a w1b) * (w2a w2b), elementwise. "LyCORIS" (arXiv 2309.14859).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lycoris.modules.base import LycorisBaseModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from torch import nn

from tuner.config.schema import MethodSection
from tuner.methods.base import Adapter, AdapterAttachment, AdapterKind, Layer, seeded, weight_rows

CHILD = "lycoris"
"""Name under which an adapter hangs below its layer, so that moving the network moves the adapter."""


def attach(
    module: nn.Module, names: list[str], section: MethodSection, *, seed: int, dtype: torch.dtype
) -> LycorisAttachment:
    """Put LoKr or LoHa on the layers called ``names``; everything else in ``module`` is frozen.

    One factor starts at zero, so the component answers as before; the others are drawn from ``seed`` in the
    order of ``names``.
    """
    rows = weight_rows(module)
    module.requires_grad_(False)
    adapters: dict[str, LycorisBaseModule] = {}
    with seeded(seed):
        for name in names:
            layer = module.get_submodule(name)
            adapter = _create(name, layer, section)
            adapter.to(layer.weight.device, dtype)
            adapter.apply_to()
            layer.add_module(CHILD, adapter)
            adapters[name] = adapter
    return LycorisAttachment(module, adapters, rows, "lokr" if section.kind == "lokr" else "loha")


def _create(name: str, layer: nn.Module, section: MethodSection) -> LycorisBaseModule:
    # bypass_mode adds op(x, dW) to the layer's answer with dW's factors in the dtype of x. The other mode
    # forms W + dW in the dtype of W, where bfloat16 rounds most of dW away.
    options = {"lora_dim": section.rank, "alpha": section.effective_alpha, "bypass_mode": True}
    if section.kind == "lokr":
        adapter = LokrModule(name, layer, factor=section.factor, **options)
    else:
        adapter = LohaModule(name, layer, **options)
    if section.dropout:
        # The constructor's own argument does the same, but prints to standard output.
        adapter.drop = nn.Dropout(section.dropout)
    return adapter


class LycorisAttachment(AdapterAttachment):
    """LoKr or LoHa on one component."""

    def __init__(
        self, module: nn.Module, adapters: dict[str, LycorisBaseModule], rows: dict[str, int], kind: AdapterKind
    ) -> None:
        super().__init__(module)
        self._adapters = adapters
        self._rows = rows
        self._kind = kind

    def parameters(self) -> dict[str, nn.Parameter]:
        """``<layer>.lokr_w1`` and so on."""
        return {
            f"{name}.{factor}": parameter
            for name, adapter in self._adapters.items()
            for factor, parameter in adapter.named_parameters()
        }

    @torch.no_grad()
    def adapter(self) -> Adapter:
        """The factors with the scale multiplied into the first one."""
        return Adapter(self._kind, {name: _exported(a) for name, a in self._adapters.items()}, self._rows)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The component without its adapter."""
        try:
            for adapter in self._adapters.values():
                adapter.restore()
            yield
        finally:
            for adapter in self._adapters.values():
                adapter.apply_to()

    @torch.no_grad()
    def update_norm(self) -> float:
        """Norm of all weight changes."""
        return math.sqrt(sum(float(a.get_weight(None).float().square().sum()) for a in self._adapters.values()))


def _exported(adapter: LycorisBaseModule) -> Layer:
    tensors = {name: parameter.detach().float().cpu() for name, parameter in adapter.named_parameters()}
    scaled = "lokr_w1" if "lokr_w1" in tensors else "hada_w1_a"
    return tensors | {scaled: tensors[scaled] * adapter.scale}
