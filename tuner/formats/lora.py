"""Writes adapters as one safetensors file per denoiser, in a layout that other programs read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save as serialise
from torch import Tensor

from tuner.catalog.spec import ModelSpec
from tuner.formats import layouts
from tuner.methods.base import Adapter
from tuner.rundir import write_atomic

EXACT = (".dora_scale", ".lora_magnitude_vector.weight", ".alpha")
"""Endings of tensors kept in float32: rounding magnitudes costs a share of the whole weight, not of the update."""


def save(
    path: Path,
    adapters: Mapping[str, Adapter],
    spec: ModelSpec,
    *,
    format: layouts.Format = "auto",
    dtype: torch.dtype = torch.bfloat16,
    metadata: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write what was learned; returns the files, in the order of the model's denoisers.

    ``adapters`` is keyed by component. Models with several denoisers get a file for each, with its label in the
    name (``style_high_noise.safetensors``). ``metadata`` comes from ``formats.metadata.describe``; the hash of
    the tensors and the noise range of an expert are added here. Files appear whole or not at all.

    Raises ``ConfigError`` where the layout cannot express the adapter, and ``DiskError``.
    """
    layout = layouts.choose(format, spec)
    payloads: dict[Path, bytes] = {}
    for label, components in layouts.files_of(adapters, spec):
        tensors = layouts.write({name: adapters[name] for name in components}, spec, layout)
        header = {**(metadata or {}), **_expert_range(components[0], spec)}
        payloads[_labelled(path, label)] = _file(_stored(tensors, dtype), header)
    for file, payload in payloads.items():
        write_atomic(file, payload)
    return list(payloads)


def _labelled(path: Path, label: str) -> Path:
    return path.with_name(f"{path.stem}_{label}{path.suffix}") if label else path


def _expert_range(component: str, spec: ModelSpec) -> dict[str, str]:
    """modelspec's timestep range of one of several denoisers, in thousandths of the noise level."""
    part = spec.components[component]
    if len(spec.denoisers) == 1 or part.role != "denoiser":
        return {}
    return {"modelspec.timestep_range": f"{round(part.sigma_min * 1000)},{round(part.sigma_max * 1000)}"}


def _stored(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    # A clone each: safetensors refuses views and tensors that share memory.
    return {
        key: tensor.to(torch.float32 if key.endswith(EXACT) else dtype).clone(memory_format=torch.contiguous_format)
        for key, tensor in tensors.items()
    }


def _file(tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    plain = serialise(tensors)
    header_bytes = int.from_bytes(plain[:8], "little")
    digest = hashlib.sha256(memoryview(plain)[8 + header_bytes :]).hexdigest()
    hashes = {"modelspec.hash_sha256": f"0x{digest}", "sshs_model_hash": digest}
    return serialise(tensors, {"format": "pt", **metadata, **hashes})
