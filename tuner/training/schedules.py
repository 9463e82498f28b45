"""How the learning rate moves: a pure function of the step, so there is no state to save.

The factor multiplies the learning rate of every group. Prodigy multiplies it with the rate it finds itself.
Schedule-free optimizers average instead of decaying: give them `constant`, with or without warm-up.
"""

from __future__ import annotations

import math

from tuner.config.schema import ScheduleSection


def factor(step: int, total_steps: int, section: ScheduleSection) -> float:
    """Factor of the learning rate at ``step``, counted from 1 to ``total_steps``.

    It rises linearly to 1 at step ``warmup_steps`` (the first step already moves), and reaches ``end_factor`` at
    the last step.
    """
    if step < section.warmup_steps:
        return step / section.warmup_steps
    if section.name == "constant":
        return 1.0
    start = section.warmup_steps
    if section.name == "wsd":
        start = max(start, total_steps - round(section.decay_share * total_steps))
    if step <= start:
        return 1.0
    progress = min(1.0, (step - start) / (total_steps - start))
    return section.end_factor + (1.0 - section.end_factor) * remaining(section.name, progress)


def remaining(name: str, progress: float) -> float:
    """Share of the way down still ahead after ``progress`` in [0, 1] of the decay: 1 at its start, 0 at its end."""
    match name:
        case "linear":
            return 1.0 - progress
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * progress))
        case "rex":  # Chen et al. 2021, arXiv:2107.04197
            return (1.0 - progress) / (1.0 - progress / 2.0)
        case _:  # wsd, with the 1 - sqrt decay of Haegele et al. 2024, arXiv:2405.18392
            return 1.0 - math.sqrt(progress)
