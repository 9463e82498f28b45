"""The layout of a run folder, atomic writes into it, and the lock that keeps two runs apart."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tuner.errors import ConfigError, DiskError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system answers when there is no room: on the disk, in the quota, for a file of that size."""


class RunDir:
    """Names of everything inside one run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def preset(self) -> Path:
        """The resolved preset."""
        return self.path / "preset.json"

    @property
    def plan(self) -> Path:
        """How the preset was fitted to the machine."""
        return self.path / "plan.json"

    @property
    def events(self) -> Path:
        """Every event, one JSON document per line."""
        return self.path / "events.jsonl"

    @property
    def log(self) -> Path:
        """The same for people."""
        return self.path / "log.txt"

    @property
    def checkpoints(self) -> Path:
        """Resumable states, ``step-000500`` and so on."""
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        """Previews and contact sheets."""
        return self.path / "samples"

    @property
    def result(self) -> Path:
        """What came out."""
        return self.path / "result.json"

    def create(self) -> None:
        """Make the folder and its sub-folders; raises ``DiskError`` where that is not possible."""
        with disk_errors(f"cannot write to the run folder {self.path}"):
            for folder in (self.path, self.checkpoints, self.samples):
                folder.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run folder for this process; raises ``ConfigError`` when another run holds it.

        The lock is the kernel's (``flock``): it goes with the process, however that ends.
        """
        lock_path = self.path / ".lock"
        with lock_path.open("a+", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                lock.seek(0)
                owner = lock.read().strip() or "unknown"
                raise ConfigError(
                    f"the run folder {self.path} is in use by another run (process {owner})",
                    hint="wait for it, stop it, or choose another folder with --output DIR",
                ) from error
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield


def write_atomic(path: Path, data: bytes | str) -> None:
    """Replace ``path`` by ``data`` so that a reader sees the old file or the new one, never a part.

    Raises ``DiskError`` when the disk is full or read-only.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    payload = data.encode() if isinstance(data, str) else data
    with disk_errors(f"cannot write {path}"):
        try:
            with aside.open("wb") as file:
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
            sync_folder(path.parent)
        finally:
            aside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """``write_atomic`` for a JSON document."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def sync_folder(folder: Path) -> None:
    """Make a rename inside ``folder`` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def disk_errors(doing: str, elsewhere: str = "--output DIR") -> Iterator[None]:
    """Turn the operating system's refusals to write into ``DiskError`` with advice.

    ``elsewhere`` is what a person sets to write to another place.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (*FULL, errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        hint = f"choose a writable folder with {elsewhere}"
        if error.errno in FULL:
            hint = f"free some space, or choose another disk with {elsewhere}; then run the same command again"
        raise DiskError(f"{doing}: {error.strerror}", hint=hint) from error
