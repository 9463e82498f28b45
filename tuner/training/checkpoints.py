"""Checkpoints: written aside, checksummed, renamed into place; a damaged one is passed over.

A checkpoint is a folder ``step-000500`` with tensors (safetensors), optimizer state (read back with
``weights_only``), ``state.json`` and ``manifest.json``, which lists every file with its SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tuner.errors import CheckpointError
from tuner.events import CheckpointSaved, Emitter, Warned
from tuner.rundir import disk_errors, sync_folder

MANIFEST = "manifest.json"
NAME_PREFIX = "step-"


@dataclass
class Snapshot:
    """Everything a run needs to go on bit for bit."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    """Groups of tensors by name: one per trained component, and the moving average."""
    objects: dict[str, Any]
    """Nested containers of tensors and plain values: optimizer state, random states."""
    values: dict[str, Any]
    """JSON values: the validation baseline, the loss average, the run's identity."""


def checkpoint_name(step: int) -> str:
    """Folder name of a step."""
    return f"{NAME_PREFIX}{step:06d}"


def save(folder: Path, snapshot: Snapshot, keep: int, emitter: Emitter) -> Path:
    """Write ``snapshot`` into ``folder`` and remove all but the ``keep`` newest.

    Raises ``DiskError`` when the disk is full; nothing that stood there before is touched then.
    """
    started = time.perf_counter()
    final = folder / checkpoint_name(snapshot.step)
    aside = folder / f".{final.name}.{os.getpid()}.tmp"
    with disk_errors(f"cannot save the checkpoint {final.name}"):
        try:
            aside.mkdir(parents=True)
            _write_files(aside, snapshot)
            if final.exists():
                shutil.rmtree(final)
            aside.rename(final)
            sync_folder(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    size = sum(file.stat().st_size for file in final.iterdir())
    emitter.emit(
        CheckpointSaved(
            step=snapshot.step, path=str(final), size_bytes=size, seconds=round(time.perf_counter() - started, 3)
        )
    )
    for _, old in listed(folder)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def _write_files(folder: Path, snapshot: Snapshot) -> None:
    for name, group in snapshot.tensors.items():
        _save_tensors({key: value.detach().cpu().contiguous() for key, value in group.items()}, folder / name)
    for name, value in snapshot.objects.items():
        _save_object(value, folder / f"{name}.pt")
    state = {"step": snapshot.step, **snapshot.values}
    (folder / "state.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    digests = {file.name: _digest(file) for file in sorted(folder.iterdir())}
    manifest = {"step": snapshot.step, "sha256": digests}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    for file in folder.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    sync_folder(folder)


def _save_tensors(group: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(group, path.with_suffix(".safetensors"))
    except SafetensorError as error:
        # The library reports the system's errors in words only.
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def _save_object(value: Any, path: Path) -> None:
    with path.open("wb") as opened:
        file = _Recording(opened)
        try:
            torch.save(value, file)
        except RuntimeError as error:
            # torch's writer hides why a write failed behind a message of its own.
            raise file.failure or error from error


class _Recording:
    """A file that remembers why a write failed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.failure: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            written = self._file.write(data)
            self._file.flush()
            return written
        except OSError as error:
            self.failure = self.failure or error
            raise

    def flush(self) -> None:
        self._file.flush()


def listed(folder: Path) -> list[tuple[int, Path]]:
    """Checkpoints in ``folder`` as (step, path), newest first."""
    found = []
    for path in folder.glob(f"{NAME_PREFIX}*"):
        number = path.name.removeprefix(NAME_PREFIX)
        if path.is_dir() and number.isdigit():
            found.append((int(number), path))
    return sorted(found, reverse=True)


def load_newest(folder: Path, emitter: Emitter, read: Callable[[Path], Snapshot] | None = None) -> Snapshot | None:
    """The newest whole checkpoint, or None when there is none at all.

    Damaged ones are passed over with a warning. Raises ``CheckpointError`` when all are damaged.
    """
    candidates = listed(folder)
    for leftover in folder.glob(f".{NAME_PREFIX}*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    for step, path in candidates:
        fault = fault_of(path)
        if fault is None:
            return (read or read_snapshot)(path)
        emitter.emit(
            Warned(message=f"checkpoint of step {step} is damaged ({fault}); trying the one before", hint=str(path))
        )
    if candidates:
        raise CheckpointError(
            f"none of the {len(candidates)} checkpoints in {folder} is whole",
            hint="start again in a new folder with --output DIR",
        )
    return None


def fault_of(path: Path) -> str | None:
    """What is wrong with the checkpoint at ``path``, or None when every file is as it was written."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        digests: Mapping[str, str] = manifest["sha256"]
    except (OSError, ValueError, KeyError) as error:
        return f"{MANIFEST} cannot be read: {error}"
    for name, digest in digests.items():
        file = path / name
        if not file.exists():
            return f"{name} is missing"
        if _digest(file) != digest:
            return f"{name} has changed"
    return None


def read_snapshot(path: Path) -> Snapshot:
    """Read a checkpoint that ``fault_of`` found whole."""
    values = json.loads((path / "state.json").read_text(encoding="utf-8"))
    return Snapshot(
        step=int(values.pop("step")),
        tensors={file.stem: load_file(file) for file in sorted(path.glob("*.safetensors"))},
        objects={file.stem: torch.load(file, weights_only=True) for file in sorted(path.glob("*.pt"))},
        values=values,
    )


def _digest(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
