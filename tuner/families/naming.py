"""Tables that pair diffusers module names with a checkpoint's original ones. Invertible, and free of frameworks.

A pattern is a dotted name in which each ``*`` stands for one decimal index; the n-th star of one side is the
n-th star of the other. Families whose names differ give a ``NAMES`` table in their ``keys.py``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Rename:
    """One layer, another name.

    ``swap``: the layer's output is (scale, shift) in one program and (shift, scale) in the other, so the two
    halves of its rows change places.
    """

    diffusers: str
    original: str
    swap: bool = False


@dataclass(frozen=True)
class Fuse:
    """Several layers that read the same input are one layer in the original; rows in the order of ``leaves``."""

    leaves: tuple[str, ...]
    original: str


@dataclass(frozen=True)
class Match:
    """Where a name leads: the rule, the concrete names on both sides, and the position among the leaves."""

    original: str
    leaves: tuple[str, ...]
    swap: bool = False

    @property
    def fused(self) -> bool:
        """Whether the original layer holds several diffusers layers."""
        return len(self.leaves) > 1


class KeyRules:
    """The table of one family, readable in both directions."""

    def __init__(self, renames: Sequence[Rename], fuses: Sequence[Fuse] = ()) -> None:
        self.renames = tuple(renames)
        self.fuses = tuple(fuses)

    def original(self, name: str) -> Match | None:
        """What the diffusers module ``name`` is in the original; None when the table does not know it."""
        for leaf, leaves, original, swap in self._entries:
            found = leaf.fullmatch(name)
            if found:
                return _match(leaves, original, swap, found)
        return None

    def diffusers(self, name: str) -> Match | None:
        """What the original layer ``name`` is in diffusers; None when the table does not know it."""
        for pattern, leaves, original, swap in self._reverse_entries:
            found = pattern.fullmatch(name)
            if found:
                return _match(leaves, original, swap, found)
        return None

    @cached_property
    def _rows(self) -> list[tuple[tuple[str, ...], str, bool]]:
        fused = [(fuse.leaves, fuse.original, False) for fuse in self.fuses]
        return fused + [((rename.diffusers,), rename.original, rename.swap) for rename in self.renames]

    @cached_property
    def _entries(self) -> list[tuple[re.Pattern[str], tuple[str, ...], str, bool]]:
        return [(_compile(leaf), leaves, original, swap) for leaves, original, swap in self._rows for leaf in leaves]

    @cached_property
    def _reverse_entries(self) -> list[tuple[re.Pattern[str], tuple[str, ...], str, bool]]:
        return [(_compile(original), leaves, original, swap) for leaves, original, swap in self._rows]


def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(r"(\d+)".join(re.escape(part) for part in pattern.split("*")))


def _match(leaves: tuple[str, ...], original: str, swap: bool, found: re.Match[str]) -> Match:
    return Match(_fill(original, found), tuple(_fill(leaf, found) for leaf in leaves), swap)


def _fill(pattern: str, found: re.Match[str]) -> str:
    parts = pattern.split("*")
    indices = (*found.groups(), "")
    return "".join(part + index for part, index in zip(parts, indices, strict=True))
