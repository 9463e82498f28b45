"""Where the traceback of an unexpected error goes: a file, with one line on the screen."""

from __future__ import annotations

import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Crash:
    """Knows the run's folder once there is one."""

    run: Path | None = None

    def report(self, error: BaseException) -> None:
        """Write the traceback to ``<run>/crash.txt``, or a temporary file, and say so on stderr."""
        text = "".join(traceback.format_exception(error))
        path = self._write(text)
        summary = " ".join(str(error).split())
        print(
            f"unexpected error: {type(error).__name__}: {summary[:200]}", f"(a bug; details in {path})", file=sys.stderr
        )

    def _write(self, text: str) -> Path:
        if self.run is not None and self.run.is_dir():
            try:
                path = self.run / "crash.txt"
                path.write_text(text, encoding="utf-8")
                return path
            except OSError as refused:  # a full disk may be the very reason; then the temporary folder has to do
                text += f"\ncannot write {self.run}/crash.txt: {refused}\n"
        with tempfile.NamedTemporaryFile(
            "w", prefix="tuner-crash-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(text)
        return Path(file.name)
