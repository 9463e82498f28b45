"""SHA-256 of files, computed once for as long as a file does not change."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

from tuner.rundir import write_json

SETTLED_S = 2.0
"""Younger changes are not trusted: a file could change again within the resolution of its time stamp."""

Stamp = tuple[int, ...]


def stamp_of(path: Path) -> Stamp:
    """What changes when a file does: size, times of change in nanoseconds, inode, device."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev


class FileDigests:
    """Remembers digests by path and stamp, in memory and, for those asked for, in the JSON file ``memo``.

    Several processes may share the file: what one overwrites of another's is computed again.
    """

    def __init__(self, memo: Path | None = None) -> None:
        self.memo = memo
        self._known: dict[str, tuple[Stamp, str]] = {}
        if memo is not None:
            self._known.update(_read(memo))

    def digest(self, path: Path) -> str:
        """SHA-256 of the file's bytes in hex. Raises ``OSError`` when it cannot be read."""
        name, stamp = str(path.absolute()), stamp_of(path)
        remembered = self._known.get(name)
        if remembered and remembered[0] == stamp:
            return remembered[1]
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        settled = time.time_ns() - max(stamp[1], stamp[2]) > SETTLED_S * 1e9
        if settled and stamp_of(path) == stamp:
            self._known[name] = (stamp, digest)
        return digest

    def remember(self, paths: Iterable[Path]) -> None:
        """Write the digests of ``paths`` to the memo, next to what others wrote. Raises ``DiskError``."""
        if self.memo is None:
            return
        names = [str(path.absolute()) for path in paths]
        ours = {name: self._known[name] for name in names if name in self._known}
        theirs = _read(self.memo)
        if ours.items() <= theirs.items():
            return
        self.memo.parent.mkdir(parents=True, exist_ok=True)
        merged = {**theirs, **ours}
        write_json(self.memo, {name: [*stamp, digest] for name, (stamp, digest) in merged.items()})


def _read(memo: Path) -> dict[str, tuple[Stamp, str]]:
    try:
        stored = json.loads(memo.read_text(encoding="utf-8"))
        return {name: (tuple(map(int, values[:-1])), str(values[-1])) for name, values in stored.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, TypeError, IndexError):  # damaged: everything is computed again
        return {}
