"""What cached rows are filed under: the content they were made from, never names or dates.

A file that moves keeps its rows; a pixel, a crop, a caption or a weight that changes gives another key.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuner.data.buckets import Crop, Item
from tuner.data.digest import FileDigests
from tuner.errors import AccessError, DatasetError
from tuner.families.base import Source

ROWS_VERSION = 1
"""Raise it when the same files would give other rows than before: all keys change."""

# Formats that are not loaded where safetensors are there.
_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5", ".onnx", ".onnx_data", ".gguf")

_digests = FileDigests()


def component_identity(source: Source, part: str, memo: Path | None = None) -> str:
    """Digest (hex) of the files that a component is loaded from, whatever they and their folder are called.

    ``memo`` is a JSON file that keeps digests between runs, because weights take long to read. Raises
    ``AccessError`` when there are no files.
    """
    path, subfolder = source.locate(part)
    folder = path / subfolder if subfolder else path
    files = _component_files(folder) if folder.is_dir() else [folder]
    if folder.is_file() and source.folder is not None:  # a single file takes its configuration from the model
        files += sorted((source.folder / part).glob("*.json"))
    digests = FileDigests(memo) if memo is not None else _digests
    try:
        named = sorted([file.suffix if file == folder else file.name, digests.digest(file)] for file in files)
    except OSError as error:
        raise AccessError(
            f"cannot read {part} from {error.filename or folder}: {error.strerror}",
            hint="check model.path and model.components",
        ) from error
    if not named:
        raise AccessError(f"there are no weights for {part} in {folder}", hint="check model.path")
    digests.remember(files)
    return _hex(["component", *named])


def text_key(caption: str, identity: str, text_tokens: int, references: Sequence[str] = ()) -> str:
    """Key of an encoded caption. ``references`` are digests of images that the encoders see along with it."""
    return _hex(["text", caption, identity, text_tokens, list(references)])


def latent_key(item: Item, identity: str, dtype: str) -> str:
    """Key of an item's row: its file, references and mask, how they are cut, and what encodes them.

    Raises ``DatasetError`` when a file is gone.
    """
    sample = item.sample
    try:
        files = [_digests.digest(path) for path in (sample.path, *sample.references)]
        mask = _digests.digest(sample.mask) if sample.mask else None
    except OSError as error:
        raise DatasetError(
            f"{error.filename or sample.path} can no longer be read: {error.strerror}",
            hint="put the file back, or start a new run without it",
        ) from error
    crops = [_numbers(crop) for crop in (item.crop, *item.reference_crops)]
    return _hex(["latents", sample.kind, files, mask, crops, identity, dtype])


def _component_files(folder: Path) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    if any(path.suffix == ".safetensors" for path in files):
        files = [path for path in files if path.suffix not in _OTHER_WEIGHTS]
    return sorted(files)


def _numbers(crop: Crop) -> list[Any]:
    return list(dataclasses.astuple(crop))


def _hex(parts: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps([ROWS_VERSION, *parts], sort_keys=True).encode()).hexdigest()
