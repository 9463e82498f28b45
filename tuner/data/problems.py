"""What can be wrong with training data, what to do about it, and one error for all of it. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tuner.errors import DatasetError

LISTED = 10
"""Problems that are written out; the rest is counted."""

HINTS = {
    "kind": 'set data.kind to "auto", or choose another model',
    "too-many-references": "remove folders from data.references, or choose a model that takes as many",
    "missing-folder": "correct the path: relative ones start at the preset's own folder",
    "empty-folder": "put files of a kind that the model trains there, each with a caption beside it",
    "nothing-to-train": "add samples that are not in a validation folder",
    "unreadable": "remove the files that cannot be read, or save them again in another program",
    "missing-caption": 'write the missing captions, or set data.captions.missing to "empty" or "filename"',
    "empty-caption": 'fill the empty captions, or set data.captions.missing to "empty" or "filename"',
    "caption-encoding": "save the captions as UTF-8 text",
    "caption-unreadable": "make the caption files readable",
    "missing-reference": "give every sample a reference with its file name, or remove the folder from data.references",
    "missing-mask": "give every sample a mask with its file name, or remove data.masks",
    "ambiguous": "keep one file of each name in the folders of references and masks",
    "mask-aspect": "draw masks over the whole picture: the size may differ, the shape may not",
    "clip-too-short": "remove the short clips, or set data.frames to 1",
}
"""What to do, by code."""


@dataclass(frozen=True)
class Problem:
    """Why a file or folder cannot be used; ``code`` is a key of ``HINTS``."""

    code: str
    path: Path
    message: str


def error_of(problems: Sequence[Problem]) -> DatasetError:
    """One error that names the first problems, counts the rest, and says what to do about all of them."""
    lines = [f"{problem.path}: {problem.message}" for problem in problems]
    hint = "; ".join(dict.fromkeys(HINTS[problem.code] for problem in problems))
    if len(lines) == 1:
        return DatasetError(lines[0], hint=hint)
    rest = [f"and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
    listed = "".join(f"\n  {line}" for line in [*lines[:LISTED], *rest])
    return DatasetError(f"the training data has {len(lines)} problems:{listed}", hint=hint)
