"""Which samples are held out for validation: decided by name and seed, so that it stays when others come or go."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def held_out(names: Sequence[str], share: float, seed: int) -> list[bool]:
    """For each name, whether it is held out: about ``share`` in [0, 1) of them.

    At least one is held out when ``share`` is above zero and there are two, and never all. Apart from these two
    cases the answer for a name does not depend on the other names.
    """
    scores = [_score(name, seed) for name in names]
    chosen = [share > 0 and score < share for score in scores]
    if share > 0 and len(names) > 1 and not any(chosen):
        chosen[scores.index(min(scores))] = True
    if all(chosen) and chosen:
        chosen[scores.index(max(scores))] = False
    return chosen


def _score(name: str, seed: int) -> float:
    """Evenly spread over [0, 1)."""
    digest = hashlib.sha256(f"{seed}/{name}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
