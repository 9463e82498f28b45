"""What a run says while it works: typed events, and the sinks that receive them.

The engine knows only ``Emitter.emit(event)``. Who renders, stores or forwards an event is decided outside.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

EVENT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Event:
    """Base of all events; ``type`` names the kind in JSON."""

    type: ClassVar[str] = "event"


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    """The run's identity; ``resumed_step`` is None for a fresh run."""

    type: ClassVar[str] = "run_started"
    run: str
    model: str
    method: str
    total_steps: int
    resumed_step: int | None = None


@dataclass(frozen=True, kw_only=True)
class PlanReady(Event):
    """How the preset meets this machine: setting -> value, and setting -> why."""

    type: ClassVar[str] = "plan"
    settings: dict[str, Any]
    reasons: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class PhaseStarted(Event):
    """A phase begins; ``total`` counts its units when they are known."""

    type: ClassVar[str] = "phase_started"
    phase: str
    total: int | None = None
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class PhaseProgress(Event):
    """``done`` of the phase's units are finished."""

    type: ClassVar[str] = "phase_progress"
    phase: str
    done: int
    total: int | None = None


@dataclass(frozen=True, kw_only=True)
class PhaseFinished(Event):
    """A phase ended; ``peak_vram_gib`` is None without a GPU."""

    type: ClassVar[str] = "phase_finished"
    phase: str
    seconds: float
    summary: str = ""
    peak_ram_gib: float | None = None
    peak_vram_gib: float | None = None


@dataclass(frozen=True, kw_only=True)
class StepDone(Event):
    """One optimizer step. ``loss`` is the mean over the effective batch, before clipping."""

    type: ClassVar[str] = "step"
    step: int
    total_steps: int
    loss: float
    learning_rate: float
    grad_norm: float
    step_s: float
    eta_s: float
    epoch: float
    vram_gib: float | None = None


@dataclass(frozen=True, kw_only=True)
class ValidationDone(Event):
    """Held-out loss at fixed noise and fixed timestep quantiles."""

    type: ClassVar[str] = "validation"
    step: int
    loss: float
    by_quantile: dict[str, float]
    baseline: float


@dataclass(frozen=True, kw_only=True)
class SampleSaved(Event):
    """A preview was written."""

    type: ClassVar[str] = "sample_saved"
    step: int
    prompt: str
    path: str


@dataclass(frozen=True, kw_only=True)
class CheckpointSaved(Event):
    """A whole, checksummed checkpoint stands at ``path``."""

    type: ClassVar[str] = "checkpoint_saved"
    step: int
    path: str
    size_bytes: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ProofDone(Event):
    """The final file was reloaded through the stock loader on a fresh copy and compared."""

    type: ClassVar[str] = "proof"
    path: str
    loader: str
    modules: int
    update_norm: float
    relative_error: float


@dataclass(frozen=True, kw_only=True)
class Warned(Event):
    """Something a person should know; the run goes on."""

    type: ClassVar[str] = "warning"
    message: str
    hint: str | None = None


@dataclass(frozen=True, kw_only=True)
class Noted(Event):
    """A plain remark for people and the log."""

    type: ClassVar[str] = "note"
    message: str


@dataclass(frozen=True, kw_only=True)
class Failed(Event):
    """The run ended with an error."""

    type: ClassVar[str] = "error"
    message: str
    hint: str | None = None
    exit_code: int = 1


@dataclass(frozen=True, kw_only=True)
class RunFinished(Event):
    """The run ended well; ``result`` is what ``result.json`` holds."""

    type: ClassVar[str] = "run_finished"
    result: dict[str, Any]


class Sink(Protocol):
    """Receives every event with its envelope (``v, seq, t, type`` and the event's fields)."""

    def handle(self, event: Event, envelope: dict[str, Any]) -> None:
        """Take one event. Must not raise for reasons of presentation."""
        ...

    def close(self) -> None:
        """The run is over; nothing more will come."""
        ...


@dataclass
class Emitter:
    """Numbers and timestamps events and hands them to every sink."""

    sinks: list[Sink] = field(default_factory=list)
    seq: int = 0

    def emit(self, event: Event) -> None:
        """Send one event to all sinks, in order."""
        self.seq += 1
        envelope = {
            "v": EVENT_VERSION,
            "seq": self.seq,
            "t": round(time.time(), 3),
            "type": event.type,
            **dataclasses.asdict(event),
        }
        for sink in self.sinks:
            sink.handle(event, envelope)

    def close(self) -> None:
        """Close every sink."""
        for sink in self.sinks:
            sink.close()


class JsonlSink:
    """Appends events to a file, one JSON document per line, flushed at once so that others can tail it."""

    def __init__(self, path: Path) -> None:
        # A line cut short by a kill would swallow the next one: start on a fresh line.
        torn = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
        self._file = path.open("a", encoding="utf-8")
        if torn:
            self._file.write("\n")

    def handle(self, event: Event, envelope: dict[str, Any]) -> None:
        """Write one line."""
        self._file.write(json.dumps(envelope, ensure_ascii=False) + os.linesep)
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_events(path: Path) -> Iterable[dict[str, Any]]:
    """Yield the events of a JSONL file in order; lines cut short by a kill are left out."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue
