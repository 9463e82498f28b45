"""Which files there are in a folder, and which of them belong to a sample: references and masks. No torch."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from tuner.data.probe import IMAGE_SUFFIXES


def walk(folder: Path, apart: Collection[Path] = ()) -> list[Path]:
    """All files below ``folder``, sorted by relative path. Links are followed once; hidden files are left out.

    Folders in ``apart``, and what is in them, are left out too.
    """
    files: list[Path] = []
    seen: set[str] = set()
    for name, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(name)
        if real in seen or Path(name) in apart:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(entry for entry in folders if not entry.startswith((".", "__MACOSX")))
        files += [Path(name, entry) for entry in names if not entry.startswith(".")]
    return sorted(files, key=lambda path: path.relative_to(folder).as_posix())


@dataclass(frozen=True)
class Companions:
    """The images of a folder that goes along with the samples: references or masks."""

    folder: Path
    by_stem: dict[str, list[Path]]
    """Images by relative path without ending."""

    @classmethod
    def of(cls, folder: Path) -> Companions:
        """All images below ``folder``."""
        by_stem: dict[str, list[Path]] = defaultdict(list)
        for path in walk(folder):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                by_stem[path.relative_to(folder).with_suffix("").as_posix()].append(path)
        return cls(folder, dict(by_stem))

    def of_sample(self, relative: Path) -> list[Path]:
        """What goes with the sample at ``relative`` to its own folder: the same place here, or else the top."""
        return self.by_stem.get(relative.with_suffix("").as_posix()) or self.by_stem.get(relative.stem, [])
