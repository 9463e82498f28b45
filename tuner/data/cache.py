"""Encoded rows on disk: written once, shared by runs, verified on read.

Rows lie in shards, safetensors files of some tens of megabytes. A shard is written aside and renamed, so it is
there whole or not at all, and never changes afterwards; which rows there are is read from the shards' headers.
Several processes may write to one folder. What is damaged counts as missing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
import uuid
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from tuner.errors import TrainingError
from tuner.families.base import Row
from tuner.rundir import disk_errors, write_atomic

SHARD_BYTES = 64 * 2**20
SHARD_ROWS = 256
OPEN_SHARDS = 64
FORMAT = "tuner-rows-2"
ABANDONED_S = 24 * 3600
"""Unfinished files older than this belong to no living process."""

# What reading a damaged shard raises; the operating system's own errors are not among them.
_DAMAGE = (SafetensorError, ValueError, KeyError, TypeError)

logger = logging.getLogger(__name__)


class RowCache:
    """The rows in one folder. Memory holds the index, the rows not yet written, and nothing else.

    ``warn`` is told what was found damaged; the log by default. Raises ``DiskError`` when the folder cannot be
    written.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None] = logger.warning) -> None:
        self.folder = folder
        self._warn = warn
        self._pending: dict[str, Row] = {}
        self._pending_bytes = 0
        self._index: dict[str, str] = {}
        """Key -> file name of the shard."""
        self._seen: set[str] = set()
        self._damaged: set[str] = set()
        self._verified: set[str] = set()
        self._open: OrderedDict[str, tuple[Any, dict[str, Any]]] = OrderedDict()
        with disk_errors(f"cannot write to the cache folder {folder}", "the variable TUNER_CACHE"):
            folder.mkdir(parents=True, exist_ok=True)
        self._remove_abandoned()
        self._refresh()

    def missing(self, keys: Sequence[str]) -> list[str]:
        """Those of ``keys`` that no whole shard holds, each once and in order. Sees what others wrote."""
        self._refresh()
        return [key for key in dict.fromkeys(keys) if key not in self._index and key not in self._pending]

    def put(self, key: str, row: Row) -> None:
        """Add a row, a copy of its tensors in their own types. It is safe on disk after ``flush``."""
        if key in self._index or key in self._pending:
            return
        copy = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in row.items()}
        self._pending[key] = copy
        self._pending_bytes += sum(tensor.nbytes for tensor in copy.values())
        if self._pending_bytes >= SHARD_BYTES or len(self._pending) >= SHARD_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what is not written yet as one shard. Raises ``DiskError``; nothing is lost then."""
        if not self._pending:
            return
        tensors: dict[str, Tensor] = {}
        rows: dict[str, dict[str, int]] = {}
        for key, row in self._pending.items():
            tensors |= {f"{key}/{name}": tensor for name, tensor in row.items()}
            rows[key] = {name: _checksum(tensor) for name, tensor in row.items()}
        # The oldest shard with a row is the one that is read: names sort by age.
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:12]}.safetensors"
        write_atomic(self.folder / name, save(tensors, metadata={"format": FORMAT, "rows": json.dumps(rows)}))
        self._seen.add(name)
        self._index.update(dict.fromkeys(self._pending, name))
        self._pending, self._pending_bytes = {}, 0

    def get(self, key: str) -> Row:
        """A copy of the row. Raises ``TrainingError`` when it is not there, or was damaged on disk."""
        if key in self._pending:
            return {name: tensor.clone() for name, tensor in self._pending[key].items()}
        if key not in self._index:
            self._refresh()
        while (shard := self._index.get(key)) is not None:
            try:
                return self._read(shard, key)
            except (*_DAMAGE, FileNotFoundError) as error:
                self._drop(shard, error)
        raise TrainingError(
            f"the cache in {self.folder} lost a row ({key[:12]}) that was there when the run began",
            hint="run the same command again: what is missing is encoded again, and training goes on",
        )

    def _read(self, shard: str, key: str) -> Row:
        handle, rows = self._opened(shard)
        row: Row = {}
        for name, checksum in rows[key].items():
            tensor = handle.get_tensor(f"{key}/{name}").clone()
            if key not in self._verified and _checksum(tensor) != checksum:
                raise ValueError("a checksum differs")
            row[name] = tensor
        self._verified.add(key)
        return row

    def _opened(self, shard: str) -> tuple[Any, dict[str, Any]]:
        """The shard's open file and the checksums of its rows. The files used last stay open."""
        if shard not in self._open:
            handle = safe_open(self.folder / shard, framework="pt")
            metadata = handle.metadata() or {}  # type: ignore[no-untyped-call]
            rows = json.loads(metadata["rows"]) if metadata.get("format") == FORMAT else {}
            self._open[shard] = handle, rows
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(shard)
        return self._open[shard]

    def _refresh(self) -> None:
        """Take up the shards that came since the last time."""
        names = sorted(path.name for path in self.folder.glob("*.safetensors"))
        for shard in names:
            if shard in self._seen or shard in self._damaged:
                continue
            try:
                _, rows = self._opened(shard)
            except FileNotFoundError:  # another process dropped it
                continue
            except _DAMAGE as error:
                self._discard(shard, error)
                continue
            self._seen.add(shard)
            for key in rows:
                self._index.setdefault(key, shard)

    def _drop(self, shard: str, error: Exception) -> None:
        """Forget a shard that proved to be damaged; its rows may be in others."""
        self._discard(shard, error)
        self._index.clear()
        self._seen.clear()
        self._verified.clear()
        self._refresh()

    def _discard(self, shard: str, error: Exception) -> None:
        self._damaged.add(shard)
        self._open.pop(shard, None)
        if isinstance(error, FileNotFoundError):
            return
        self._warn(f"{self.folder / shard} is damaged ({error}): its rows are encoded again")
        with contextlib.suppress(OSError):  # a cache that is read-only keeps it; it stays unused
            (self.folder / shard).unlink()

    def _remove_abandoned(self) -> None:
        for aside in self.folder.glob(".*.tmp"):
            with contextlib.suppress(OSError):  # another process may finish or remove it meanwhile
                if time.time() - aside.stat().st_mtime > ABANDONED_S:
                    aside.unlink()


def _checksum(tensor: Tensor) -> int:
    """CRC-32 of the tensor's type, shape and bytes."""
    head = f"{tensor.dtype} {tuple(tensor.shape)}".encode()
    return zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, zlib.crc32(head))
