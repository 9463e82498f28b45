"""Plain lines for pipes, for terminals that cannot redraw, and for the log of a run."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from cli.render.words import sentences, step_figures
from tuner.events import Event, Failed, PhaseProgress, PhaseStarted, StepDone

EVERY_S = 30.0
STEP_SHARE = 0.01
PHASE_SHARE = 0.1


@dataclass
class Cadence:
    """Lets through what is due: every ``share`` of the whole, and every ``EVERY_S`` seconds."""

    share: float
    last_s: float = float("-inf")
    last_done: int = 0

    def due(self, now_s: float, done: int, total: int | None) -> bool:
        """Whether to speak at ``done`` of ``total``; remembers that it was."""
        enough = total is not None and (done >= total or done - self.last_done >= self.share * total)
        if not enough and now_s - self.last_s < EVERY_S:
            return False
        self.last_s, self.last_done = now_s, done
        return True


@dataclass
class Mean:
    """Mean of what was seen since it was last asked for."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        """See one value."""
        self.total += value
        self.count += 1

    def take(self) -> float:
        """The mean, starting afresh."""
        mean = self.total / self.count
        self.total, self.count = 0.0, 0
        return mean


@dataclass
class LineSink:
    """Writes a run as lines: at most one per 1 % of the steps, and one each 30 s if that is sooner.

    Figures of a step line are means over the steps since the line before.
    """

    stream: TextIO
    stamped: bool = False
    """Whether lines begin with the local time."""
    errors: bool = False
    """Whether failures are written; on a terminal the command itself says them."""
    _steps: Cadence = field(default_factory=lambda: Cadence(STEP_SHARE))
    _phases: dict[str, Cadence] = field(default_factory=dict)
    _loss: Mean = field(default_factory=Mean)
    _pace: Mean = field(default_factory=Mean)

    def handle(self, event: Event, envelope: dict[str, Any]) -> None:
        """Write the lines of one event, if any are due."""
        now_s: float = envelope["t"]
        if isinstance(event, StepDone):
            lines = self._step(event, now_s)
        elif isinstance(event, PhaseProgress):
            lines = self._progress(event, now_s)
        elif isinstance(event, Failed) and not self.errors:
            lines = []
        else:
            lines = sentences(event)
        if isinstance(event, PhaseStarted):
            self._phases[event.phase] = Cadence(PHASE_SHARE, last_s=now_s)
        stamp = time.strftime("%Y-%m-%d %H:%M:%S ", time.localtime(now_s)) if self.stamped else ""
        for line in lines:
            self.stream.write(f"{stamp}{line}\n")
        self.stream.flush()

    def _step(self, event: StepDone, now_s: float) -> list[str]:
        self._loss.add(event.loss)
        self._pace.add(event.step_s)
        if not self._steps.due(now_s, event.step, event.total_steps):
            return []
        share = 100 * event.step / event.total_steps
        figures = step_figures(event, self._loss.take(), self._pace.take())
        return [f"step {event.step}/{event.total_steps} {share:.1f}% {figures}"]

    def _progress(self, event: PhaseProgress, now_s: float) -> list[str]:
        cadence = self._phases.setdefault(event.phase, Cadence(PHASE_SHARE))
        if not cadence.due(now_s, event.done, event.total):
            return []
        if event.total is None:
            return [f"{event.phase} {event.done}"]
        return [f"{event.phase} {event.done}/{event.total} {100 * event.done / event.total:.1f}%"]

    def close(self) -> None:
        """Nothing to do: the stream belongs to the caller."""


class LogSink:
    """``log.txt`` of a run: stamped lines, appended; the file is opened once the run's folder is there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: LineSink | None = None

    def handle(self, event: Event, envelope: dict[str, Any]) -> None:
        """Append the lines of one event."""
        if self._lines is None:
            self._lines = LineSink(
                self._path.open("a", encoding="utf-8", errors="backslashreplace"), stamped=True, errors=True
            )
        self._lines.handle(event, envelope)

    def close(self) -> None:
        """Close the file."""
        if self._lines is not None:
            self._lines.stream.close()
