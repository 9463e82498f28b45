"""LoRA and DoRA through peft.

LoRA: W' = W + s B A, with A (r, in) and B (out, r) of "LoRA" (arXiv 2106.09685) and s = alpha / r, or
alpha / sqrt(r) when rank-stabilised (arXiv 2312.03732). DoRA rescales the rows of W' to learned magnitudes
(arXiv 2402.09353).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners import lora
from torch import Tensor, nn
from torch.nn import functional as F

from tuner.config.schema import MethodSection
from tuner.methods import targets
from tuner.methods.base import Adapter, AdapterAttachment, Layer, seeded, weight_rows

ADAPTER_NAME = "default"

PeftLayer = Any
"""A ``peft.tuners.lora.LoraLayer`` that is also an ``nn.Module``; its dictionaries of modules defy typing."""


class CastLinear(lora.Linear):
    """peft's linear LoRA layer with a forward that casts A and B to the activations' dtype, never x.

    peft casts x to the dtype of A: with float32 adapters on a bfloat16 network that keeps a float32 copy of
    every activation for the backward pass.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(..., in) -> (..., out), in the dtype of the base layer's answer."""
        result: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return result
        down, up = _cast_factors(self, x.dtype)
        hidden = F.linear(self.lora_dropout[ADAPTER_NAME](x), down)
        return result + F.linear(hidden, up)


class CastConv2d(lora.Conv2d):
    """The same for two-dimensional convolutions."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(B, C, H, W) -> what the base layer answers."""
        result: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return result
        down, up = _cast_factors(self, x.dtype)
        base: Any = self.get_base_layer()
        hidden = F.conv2d(self.lora_dropout[ADAPTER_NAME](x), down, None, base.stride, base.padding, base.dilation)
        return result + F.conv2d(hidden, up)


def _cast_factors(layer: PeftLayer, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A and scaled B in ``dtype``: the very values that are saved, so that a bfloat16 file loses nothing more."""
    up = layer.lora_B[ADAPTER_NAME].weight * layer.scaling[ADAPTER_NAME]
    return layer.lora_A[ADAPTER_NAME].weight.to(dtype), up.to(dtype)


def attach(
    module: nn.Module, names: list[str], section: MethodSection, *, seed: int, dtype: torch.dtype
) -> LoraAttachment:
    """Put LoRA or DoRA layers around the layers called ``names``; everything else in ``module`` is frozen.

    A starts from the uniform distribution of ``nn.Linear``, drawn from ``seed`` in the order of ``names``;
    B starts at zero, so the component answers as before.
    """
    rows = weight_rows(module)
    rank = targets.ranks(names, section)
    by_rank: dict[int, list[str]] = {}
    for name in names:
        if rank[name] != section.rank:
            by_rank.setdefault(rank[name], []).append(name)
    config = LoraConfig(
        r=section.rank,
        lora_alpha=section.effective_alpha,
        lora_dropout=section.dropout,
        use_rslora=section.rslora,
        use_dora=section.kind == "dora",
        target_modules=_any_of(names),
        rank_pattern={_any_of(group): value for value, group in by_rank.items()},
        # Without an alpha of its own the scale is 1 at every rank.
        alpha_pattern={} if section.alpha else {_any_of(group): value for value, group in by_rank.items()},
    )
    if section.kind == "lora":
        config._register_custom_module({nn.Linear: CastLinear, nn.Conv2d: CastConv2d})
    with seeded(seed) as generator:
        inject_adapter_in_model(config, module, adapter_name=ADAPTER_NAME)
        layers: dict[str, PeftLayer] = {name: module.get_submodule(name) for name in names}
        for layer in layers.values():
            _initialise(layer, generator, dtype)
    return LoraAttachment(module, layers, rows)


def _any_of(names: list[str]) -> str:
    """A regular expression for exactly these names: peft takes a plain list as endings."""
    return f"^(?:{'|'.join(re.escape(name) for name in names)})$"


def _initialise(layer: PeftLayer, generator: torch.Generator, dtype: torch.dtype) -> None:
    down, up = layer.lora_A[ADAPTER_NAME].weight, layer.lora_B[ADAPTER_NAME].weight
    start = torch.empty(down.shape, dtype=torch.float32)
    nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
    down.data = start.to(down.device, dtype)
    up.data = torch.zeros(up.shape, device=up.device, dtype=dtype)
    if ADAPTER_NAME in layer.lora_magnitude_vector:
        magnitude = layer.lora_magnitude_vector[ADAPTER_NAME].weight
        norms = row_norms(layer.get_base_layer().weight)
        magnitude.data = norms.reshape(magnitude.shape).to(magnitude.device, dtype)


def row_norms(weight: Tensor) -> Tensor:
    """Norm of each output row, (out, ...) -> (out,), float32."""
    norms: Tensor = weight.detach().float().flatten(1).norm(dim=1)
    return norms


class LoraAttachment(AdapterAttachment):
    """LoRA or DoRA on one component."""

    def __init__(self, module: nn.Module, layers: dict[str, PeftLayer], rows: dict[str, int]) -> None:
        super().__init__(module)
        self._layers = layers
        self._rows = rows

    def parameters(self) -> dict[str, nn.Parameter]:
        """``<layer>.lora_A``, ``<layer>.lora_B`` and, for DoRA, ``<layer>.magnitude``."""
        found: dict[str, nn.Parameter] = {}
        for name, layer in self._layers.items():
            found[f"{name}.lora_A"] = layer.lora_A[ADAPTER_NAME].weight
            found[f"{name}.lora_B"] = layer.lora_B[ADAPTER_NAME].weight
            if ADAPTER_NAME in layer.lora_magnitude_vector:
                found[f"{name}.magnitude"] = layer.lora_magnitude_vector[ADAPTER_NAME].weight
        return found

    @torch.no_grad()
    def adapter(self) -> Adapter:
        """The factors with alpha (and the rank-stabilising factor) multiplied into B."""
        layers = {name: _exported(layer) for name, layer in self._layers.items()}
        dora = any("magnitude" in layer for layer in layers.values())
        return Adapter("dora" if dora else "lora", layers, self._rows)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The component without its adapter."""
        # peft also toggles requires_grad, which belongs to whoever set it.
        trained = {parameter: parameter.requires_grad for parameter in self.parameters().values()}
        try:
            for layer in self._layers.values():
                layer.enable_adapters(False)
            yield
        finally:
            for layer in self._layers.values():
                layer.enable_adapters(True)
            for parameter, flag in trained.items():
                parameter.requires_grad_(flag)

    @torch.no_grad()
    def update_norm(self) -> float:
        """Norm of all weight changes; for plain LoRA from r x r products, without building any of them."""
        return math.sqrt(sum(_squared_change(layer) for layer in self._layers.values()))


def _scaled_factors(layer: PeftLayer) -> tuple[Tensor, Tensor]:
    """A and scaled B in float32, in the shapes of the weights."""
    down = layer.lora_A[ADAPTER_NAME].weight.detach().float()
    return down, layer.lora_B[ADAPTER_NAME].weight.detach().float() * layer.scaling[ADAPTER_NAME]


def _exported(layer: PeftLayer) -> Layer:
    down, up = _scaled_factors(layer)
    tensors = {"lora_A": down.cpu(), "lora_B": up.cpu()}
    if ADAPTER_NAME in layer.lora_magnitude_vector:
        magnitude = layer.lora_magnitude_vector[ADAPTER_NAME].weight.detach().float().flatten()
        base, changed = _weights(layer)
        tensors["magnitude"] = magnitude.cpu()
        tensors["dora_scale"] = (magnitude * row_norms(base) / row_norms(changed)).cpu()
    return tensors


def _weights(layer: PeftLayer) -> tuple[Tensor, Tensor]:
    """W and W + s B A, both (out, ...) float32; not yet rescaled."""
    base = layer.get_base_layer().weight.detach().float()
    down, up = _scaled_factors(layer)
    return base, base + (up.flatten(1) @ down.flatten(1)).reshape(base.shape)


def _squared_change(layer: PeftLayer) -> float:
    if ADAPTER_NAME in layer.lora_magnitude_vector:
        magnitude = layer.lora_magnitude_vector[ADAPTER_NAME].weight.detach().float().flatten()
        base, changed = (weight.flatten(1) for weight in _weights(layer))
        return float((changed * (magnitude / changed.norm(dim=1)).unsqueeze(1) - base).square().sum())
    down, up = (factor.flatten(1).double() for factor in _scaled_factors(layer))
    # |B A|^2 = trace((B^T B)(A A^T))
    return float(((up.T @ up) * (down @ down.T)).sum())
