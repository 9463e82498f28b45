"""Writes a full fine-tune as a model folder in diffusers layout, complete, so that any loader takes it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from torch import nn

from tuner.errors import ConfigError, DiskError
from tuner.families.base import Source
from tuner.rundir import disk_errors, sync_folder

INDEX = "model_index.json"


def save(path: Path, trained: Mapping[str, nn.Module], source: Source, *, dtype: torch.dtype) -> Path:
    """Write the folder ``path``: trained components in ``dtype``, everything else copied from ``source``.

    ``trained`` is keyed by component; the modules are left as they are. The folder appears whole or not at
    all, and replaces one of an earlier save. Raises ``ConfigError`` when there is no base folder to copy the
    rest from or ``path`` lies inside it, and ``DiskError``.
    """
    base = _base_folder(source)
    path = path.resolve()
    if path == base or base in path.parents or path in base.parents:
        raise ConfigError(
            f"the result {path} and the base model {base} lie inside each other", hint="choose another --output DIR"
        )
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(f"cannot write {path}"):
        try:
            _copy_rest(base, aside, trained.keys(), source)
            for name, module in trained.items():
                _save_component(module, aside / name, dtype)
            _sync(aside)
            _replace(path, aside)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return path


def _base_folder(source: Source) -> Path:
    if source.folder is None or not (source.folder / INDEX).is_file():
        raise ConfigError(
            f"a full fine-tune is saved as a model folder, which takes its other parts from the base's; "
            f"there is no {INDEX} in {source.folder}",
            hint="set model.path to a folder in diffusers layout",
        )
    return source.folder.resolve()


def _copy_rest(base: Path, aside: Path, trained: Collection[str], source: Source) -> None:
    """The components of the base's index that were not trained; links of hub caches are followed."""
    aside.mkdir(parents=True)
    for file in (base / INDEX, *base.glob("LICENSE*")):
        shutil.copy2(file, aside / file.name)
    index: dict[str, Any] = json.loads((base / INDEX).read_text(encoding="utf-8"))
    for name in index:
        origin = source.overrides.get(name, base / name)
        if name in trained:
            continue
        if origin.is_file():
            raise ConfigError(
                f"model.components.{name} is a single file, which a model folder cannot take over",
                hint="give this component as a folder in diffusers layout",
            )
        if origin.is_dir():
            shutil.copytree(origin, aside / name)


def _save_component(module: nn.Module, folder: Path, dtype: torch.dtype) -> None:
    state = {
        name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in module.state_dict().items()
    }
    saver: Any = module
    try:
        if hasattr(saver, "save_config"):
            saver.save_config(folder)
            save_torch_state_dict(state, folder, filename_pattern="diffusion_pytorch_model{suffix}.safetensors")
        else:
            saver.save_pretrained(folder, state_dict=state)
    except SafetensorError as error:
        if "os error" not in str(error):
            raise
        raise DiskError(
            f"cannot write {folder}: {error}",
            hint="free some space, or choose another disk with --output DIR; then run the same command again",
        ) from error


def _sync(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())


def _replace(path: Path, aside: Path) -> None:
    previous = path.with_name(f".{path.name}.{os.getpid()}.old")
    if path.exists():
        path.replace(previous)
    aside.replace(path)
    sync_folder(path.parent)
    shutil.rmtree(previous, ignore_errors=True)
