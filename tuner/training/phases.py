"""A run's phases as events: what starts, how far it is, how long it took and what it needed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from tuner.events import Emitter, PhaseFinished, PhaseProgress, PhaseStarted
from tuner.memory.placement import peak_ram_gib, peak_vram_gib, reset_peak

REPORT_EVERY_S = 0.2


@dataclass
class Phase:
    """Handle of a running phase: count units, and leave a sentence for people."""

    name: str
    emitter: Emitter
    total: int | None
    done: int = 0
    summary: str = ""
    _reported_s: float = 0.0

    def advance(self, count: int = 1) -> None:
        """``count`` more units are done; events are thinned out to a few per second."""
        self.done += count
        now = time.monotonic()
        if self.done == self.total or now - self._reported_s >= REPORT_EVERY_S:
            self._reported_s = now
            self.emitter.emit(PhaseProgress(phase=self.name, done=self.done, total=self.total))


@dataclass
class PhaseLog:
    """Runs phases one after the other and remembers what each took."""

    emitter: Emitter
    device: torch.device
    records: dict[str, dict[str, float | None]]

    @contextlib.contextmanager
    def phase(self, name: str, total: int | None = None, unit: str = "") -> Iterator[Phase]:
        """Announce a phase, hand out its handle, and report its time and peak memory."""
        self.emitter.emit(PhaseStarted(phase=name, total=total, unit=unit))
        reset_peak(self.device)
        started = time.perf_counter()
        phase = Phase(name, self.emitter, total)
        yield phase
        seconds = round(time.perf_counter() - started, 3)
        ram, vram = round(peak_ram_gib(), 3), peak_vram_gib(self.device)
        self.records[name] = {"seconds": seconds, "peak_ram_gib": ram, "peak_vram_gib": vram}
        self.emitter.emit(
            PhaseFinished(phase=name, seconds=seconds, summary=phase.summary, peak_ram_gib=ram, peak_vram_gib=vram)
        )
