"""Puts a saved adapter onto fresh components through the loaders that other programs use."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tuner.catalog.spec import ModelSpec
from tuner.errors import ProofError
from tuner.families.base import Family
from tuner.formats import layouts
from tuner.formats.layouts import Layout
from tuner.methods.base import Adapter, Layer

LIBRARIES = ("diffusers", "peft", "transformers")

COMPLAINTS = ("unexpected", "missing", "not initialized", "newly initialized", "not used")
"""Parts of the messages in which these libraries say that a file and a network do not agree."""

NO_COMPLAINT = "No LoRA keys associated to"
"""What diffusers says about every component the file holds nothing for."""


@contextmanager
def strict_loading() -> Iterator[None]:
    """Turn the libraries' warnings about missing or unexpected keys into ``ProofError``; others are swallowed."""
    heard: list[str] = []
    with warnings.catch_warnings(record=True) as caught, contextlib.ExitStack() as stack:
        warnings.simplefilter("always")
        for name in LIBRARIES:
            stack.enter_context(_listening(logging.getLogger(name), heard))
        yield
    heard += [str(warning.message) for warning in caught]
    wrong = [text for text in heard if any(part in text.lower() for part in COMPLAINTS) and NO_COMPLAINT not in text]
    if wrong:
        raise ProofError(f"the loader complained: {wrong[0][:500]}", hint="the checkpoint is kept")


@contextmanager
def _listening(logger: logging.Logger, heard: list[str]) -> Iterator[None]:
    before = logger.handlers, logger.level, logger.propagate
    logger.handlers, logger.level, logger.propagate = [_Collector(heard)], logging.WARNING, False
    try:
        yield
    finally:
        logger.handlers, logger.level, logger.propagate = before


class _Collector(logging.Handler):
    def __init__(self, heard: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        self._heard.append(record.getMessage())


def load_stock(
    path: Path, layers: Mapping[str, dict[str, Layer]], parts: Mapping[str, nn.Module], family: Family, layout: Layout
) -> str:
    """Load a LoRA or DoRA into ``parts`` as diffusers' users do; returns the loader's name.

    The file itself is given to the loader where that reads its layout. Others are first brought to diffusers' own
    layout by the inverse rules: ``layers`` is the file's content, by component.
    """
    spec = family.spec
    readable = _read_by_diffusers(layers, spec, layout)
    given = str(path) if readable else _diffusers_tensors(layers, parts, spec)
    denoiser = next(name for name in parts if name in spec.denoisers)
    network: Any = parts[denoiser]
    if spec.save.mixin:
        loader = f"{spec.pipeline}.load_lora_weights"
        options = {} if denoiser == next(iter(spec.denoisers)) else {f"load_into_{denoiser}": True}
        # The loader looks at the first denoiser even when it fills another.
        stand_ins = {name: parts.get(name, parts[denoiser]) for name in spec.denoisers}
        pipeline: Any = family.pipeline({**parts, **stand_ins})
        pipeline.load_lora_weights(given, **options)
    else:
        loader = f"{type(network).__name__}.load_lora_adapter"
        prefix = layouts.prefix_of(denoiser, spec, "diffusers").rstrip(".")
        network.load_lora_adapter(given, prefix=prefix)
    return loader if readable else f"{loader} (renamed from {layout})"


def _read_by_diffusers(layers: Mapping[str, dict[str, Layer]], spec: ModelSpec, layout: Layout) -> bool:
    """Whether diffusers 0.42 reads all of a file in this layout."""
    if layout == "diffusers":
        return True
    if any("dora_scale" in layer for found in layers.values() for layer in found.values()):
        return False  # the loader drops these
    encoders = [found for component, found in layers.items() if component not in spec.denoisers]
    if layout == "kohya" and any(found and not any("out_proj" in name for name in found) for found in encoders):
        return False  # the loader tells kohya's text encoder layers by this name, and overlooks the others without it
    return layout == spec.save.auto


def _diffusers_tensors(
    layers: Mapping[str, dict[str, Layer]], parts: Mapping[str, nn.Module], spec: ModelSpec
) -> dict[str, Tensor]:
    adapters = {
        component: Adapter("lora", {name: _with_magnitude(found[name], parts[component], name) for name in found}, {})
        for component, found in layers.items()
    }
    return {
        key: tensor for key, tensor in layouts.write(adapters, spec, "diffusers").items() if "dora_scale" not in key
    }


def _with_magnitude(layer: Layer, module: nn.Module, name: str) -> Layer:
    """The magnitude peft needs, from the scale that is relative to the original rows."""
    if "dora_scale" not in layer:
        return layer
    weight = module.get_parameter(f"{name}.weight").detach().float().cpu().flatten(1)
    changed = weight + layer["lora_B"].flatten(1) @ layer["lora_A"].flatten(1)
    return {**layer, "magnitude": layer["dora_scale"] * changed.norm(dim=1) / weight.norm(dim=1)}


def load_lycoris(layers: Mapping[str, dict[str, Layer]], parts: Mapping[str, nn.Module]) -> str:
    """Load LoKr or LoHa into ``parts`` through lycoris-lora; returns the loader's name."""
    from lycoris import create_lycoris_from_weights

    for component, found in layers.items():
        module = parts[component]
        tensors = {
            f"lycoris_{name.replace('.', '_')}.{key}": tensor
            for name, layer in found.items()
            for key, tensor in {**layer, "alpha": torch.tensor(float(_rank(layer)))}.items()
        }
        network, _ = create_lycoris_from_weights(1.0, "", module, weights_sd=tensors)
        for adapter in network.loras:
            # The default adds dW to W in the dtype of W, which rounds; see methods.lycoris.
            adapter.bypass_mode = True
        network.apply_to()
        module.add_module("lycoris", network.requires_grad_(False))
    return "lycoris.create_lycoris_from_weights"


def _rank(layer: Layer) -> int:
    """The alpha that stands for a scale of 1: the loader wants one, files have it multiplied in."""
    for key, axis in (("lokr_w2_a", 1), ("hada_w1_a", 1)):
        if key in layer:
            return layer[key].shape[axis]
    return 1


def adapted(module: nn.Module) -> frozenset[str]:
    """Names of the layers of ``module`` that have an adapter, whoever put it there."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return frozenset(
        name
        for name, layer in module.named_modules()
        if isinstance(layer, BaseTunerLayer) or hasattr(layer, "_lycoris_wrappers")
    )


def cast_adapters(module: nn.Module, dtype: torch.dtype) -> None:
    """Give loaded peft adapters the dtype they had while training: DoRA float32, LoRA that of the activations."""
    names = [name for name, _ in module.named_parameters() if ".lora_" in name]
    exact = any("lora_magnitude_vector" in name for name in names)
    for name in names:
        parameter = module.get_parameter(name)
        parameter.data = parameter.data.to(torch.float32 if exact else dtype)
