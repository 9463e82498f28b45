"""The layouts of adapter files: which key each tensor gets, and the way back.

diffusers  component, dots, ``lora_A``/``lora_B``: ``transformer.blocks.0.attn1.to_q.lora_A.weight``
comfyui    ``diffusion_model.`` and original names, same suffixes
kohya      ``lora_unet_`` and original names with underscores, ``lora_down``/``lora_up`` and ``alpha`` = rank

Every scale is already in the tensors, so readers agree whatever their rule for alpha. Stable Diffusion's U-Nets
keep diffusers names everywhere, and ComfyUI reads those only with kohya's prefix.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

import torch
from torch import Tensor

from tuner.catalog.spec import ComponentSpec, ModelSpec
from tuner.errors import ConfigError
from tuner.formats.rules import rules_of, to_diffusers, to_original
from tuner.methods.base import Adapter, Layer

Format = Literal["auto", "comfyui", "diffusers", "kohya"]
Layout = Literal["comfyui", "diffusers", "kohya"]

CLIP_NAMES = {
    "CLIPTextModel": "clip_l",
    "CLIPTextModelWithProjection": "clip_g",
    "T5EncoderModel": "t5xxl",
    "UMT5EncoderModel": "umt5xxl",
}
"""What ComfyUI calls a text encoder, by its class."""

SUFFIXES: dict[Layout, dict[str, str]] = {
    "diffusers": {"lora_A": "lora_A.weight", "lora_B": "lora_B.weight", "magnitude": "lora_magnitude_vector.weight"},
    "comfyui": {"lora_A": "lora_A.weight", "lora_B": "lora_B.weight"},
    "kohya": {"lora_A": "lora_down.weight", "lora_B": "lora_up.weight"},
}
"""Endings that differ from the tensor's own name. Magnitudes end in ``.weight`` because transformers wants it."""


def choose(form: Format, spec: ModelSpec) -> Layout:
    """The layout that a ``save.format`` stands for with this model."""
    layout = spec.save.auto if form == "auto" else form
    return "kohya" if layout == "comfyui" and spec.save.auto == "kohya" else layout


def write(adapters: Mapping[str, Adapter], spec: ModelSpec, layout: Layout) -> dict[str, Tensor]:
    """All tensors of one file, float32.

    Raises ``ConfigError`` where the layout cannot express the adapter; its hint names one that can.
    """
    tensors: dict[str, Tensor] = {}
    for component, adapter in adapters.items():
        prefix = prefix_of(component, spec, layout)
        for name, layer in _outer_layers(component, adapter, spec, layout).items():
            stem = prefix + (name.replace(".", "_") if layout == "kohya" else name)
            tensors |= {f"{stem}.{key}": tensor for key, tensor in _file_tensors(layer, layout).items()}
    return tensors


def read(
    tensors: Mapping[str, Tensor], spec: ModelSpec, layout: Layout, rows: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, Layer]]:
    """Component -> layers under their diffusers names: the inverse of ``write``.

    ``rows`` gives the output features of every layer of each component the file may hold. Raises
    ``ConfigError`` when a key belongs to none of them.
    """
    left = dict(tensors)
    found: dict[str, dict[str, Layer]] = {}
    for component, layer_rows in rows.items():
        prefix = prefix_of(component, spec, layout)
        outer: dict[str, Layer] = {}
        for name in _outer_names(component, layer_rows, spec, layout):
            stem = prefix + (name.replace(".", "_") if layout == "kohya" else name)
            mine = {key: left.pop(key) for key in [key for key in left if key.startswith(f"{stem}.")]}
            if mine:
                outer[name] = _layer(mine, stem, layout)
        found[component] = _inner_layers(component, outer, spec, layout, layer_rows)
    if left:
        raise ConfigError(
            f"{len(left)} keys of the file belong to no layer of {spec.id}, for example {next(iter(left))}",
            hint="was the file made for another model, or written in another layout?",
        )
    return found


def prefix_of(component: str, spec: ModelSpec, layout: Layout) -> str:
    """What the keys of a component begin with."""
    part = spec.components[component]
    if part.role == "denoiser":
        # Each expert has a file of its own, in which it is the only denoiser.
        return {"diffusers": f"{next(iter(spec.denoisers))}.", "comfyui": "diffusion_model.", "kohya": "lora_unet_"}[
            layout
        ]
    if layout == "diffusers":
        return f"{component}."
    if layout == "comfyui":
        return f"text_encoders.{_clip_name(component, part)}.transformer."
    encoders = list(spec.of_role("text_encoder"))
    return f"lora_te{encoders.index(component) + 1}_" if len(encoders) > 1 else "lora_te_"


def _clip_name(component: str, part: ComponentSpec) -> str:
    name = CLIP_NAMES.get(part.cls.rpartition(".")[2])
    if name is None:
        raise ConfigError(
            f"ComfyUI has no known name for {component} ({part.cls})", hint='set save.format to "diffusers"'
        )
    return name


def _outer_layers(component: str, adapter: Adapter, spec: ModelSpec, layout: Layout) -> dict[str, Layer]:
    """Layers under the names a file uses, without prefix."""
    if spec.components[component].role != "denoiser":
        return {_encoder_name(name, spec.components[component]): layer for name, layer in adapter.layers.items()}
    rules = None if layout == "diffusers" else rules_of(spec)
    return adapter.layers if rules is None else to_original(adapter.layers, rules, adapter.rows)


def _outer_names(component: str, rows: Mapping[str, int], spec: ModelSpec, layout: Layout) -> list[str]:
    if spec.components[component].role != "denoiser":
        return [_encoder_name(name, spec.components[component]) for name in rows]
    rules = None if layout == "diffusers" else rules_of(spec)
    if rules is None:
        return list(rows)
    return list(dict.fromkeys(match.original for name in rows if (match := rules.original(name)) is not None))


def _inner_layers(
    component: str, outer: dict[str, Layer], spec: ModelSpec, layout: Layout, rows: Mapping[str, int]
) -> dict[str, Layer]:
    part = spec.components[component]
    if part.role != "denoiser":
        names = {_encoder_name(name, part): name for name in rows}
        return {names[name]: layer for name, layer in outer.items()}
    rules = None if layout == "diffusers" else rules_of(spec)
    return outer if rules is None else to_diffusers(outer, rules, rows)


def _encoder_name(name: str, part: ComponentSpec) -> str:
    # transformers dropped the `text_model.` level of CLIPTextModel; every reader of files still expects it.
    flattened = part.cls.endswith(".CLIPTextModel") and not name.startswith("text_model.")
    return f"text_model.{name}" if flattened else name


def _file_tensors(layer: Layer, layout: Layout) -> dict[str, Tensor]:
    """File keys of one layer, without the layer's name."""
    dimensions = layer["lora_A"].ndim if "lora_A" in layer else 2
    tensors: dict[str, Tensor] = {}
    for key, tensor in layer.items():
        if key == "dora_scale":
            tensors[key] = tensor.reshape(-1, *[1] * (dimensions - 1))
        elif key == "magnitude":
            if layout == "diffusers":
                tensors[SUFFIXES[layout][key]] = tensor if dimensions == 2 else tensor.reshape(1, -1, 1, 1)
        else:
            tensors[SUFFIXES[layout].get(key, key)] = tensor
    if layout == "kohya" and "lora_A" in layer:
        tensors["alpha"] = torch.tensor(float(layer["lora_A"].shape[0]))
    return tensors


def _layer(tensors: Mapping[str, Tensor], stem: str, layout: Layout) -> Layer:
    endings = {ending: key for key, ending in SUFFIXES[layout].items()}
    layer: Layer = {}
    for full, tensor in tensors.items():
        key = full[len(stem) + 1 :]
        if key != "alpha":
            own = endings.get(key, key)
            layer[own] = tensor.float().flatten() if own in ("magnitude", "dora_scale") else tensor.float()
    return layer


def files_of(trained: Collection[str], spec: ModelSpec) -> list[tuple[str, list[str]]]:
    """How components are shared out over files: (label, components). One file per trained denoiser.

    Text encoders go with the first. The label is empty for models with a single denoiser.
    """
    denoisers = [name for name in spec.denoisers if name in trained]
    others = [name for name in trained if name not in spec.denoisers]
    if not denoisers:
        return [("", others)]
    files = [(spec.components[name].label if len(spec.denoisers) > 1 else "", [name]) for name in denoisers]
    files[0][1].extend(others)
    return files
