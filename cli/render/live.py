"""A run on a terminal: finished things scroll up as lines, what is going on stays at the bottom and moves."""

from __future__ import annotations

from functools import singledispatchmethod
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from cli.render import words
from tuner.events import (
    Event,
    Failed,
    PhaseFinished,
    PhaseProgress,
    PhaseStarted,
    PlanReady,
    ProofDone,
    RunFinished,
    RunStarted,
    StepDone,
    Warned,
)

SMOOTHING = 0.05
"""Weight of the newest step in the shown loss and pace."""
REFRESHES_PER_S = 4
"""Few enough for a slow line."""


class LiveSink:
    """Shows events on ``console``. Nothing of captions, paths or messages is taken for markup."""

    def __init__(self, console: Console) -> None:
        self._console = console
        unicode = console.encoding.lower().startswith("utf")
        self._done = "✓" if unicode else "ok"
        self._progress = Progress(
            SpinnerColumn("dots" if unicode else "line"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[figures]}", markup=False),
            console=console,
            refresh_per_second=REFRESHES_PER_S,
            transient=True,
            expand=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._loss: float | None = None
        self._pace_s: float | None = None
        self._progress.start()
        self._begin("starting", None)

    def handle(self, event: Event, envelope: dict[str, Any]) -> None:
        """Show one event."""
        self._end("starting")
        self._show(event)

    def close(self) -> None:
        """Take the moving part off the screen."""
        self._progress.stop()

    def _begin(self, name: str, total: int | None) -> None:
        figures = "" if total is None else f"0/{total}"
        self._tasks[name] = self._progress.add_task(name, total=total, figures=figures)

    def _end(self, name: str) -> None:
        if name in self._tasks:
            self._progress.remove_task(self._tasks.pop(name))

    def _print(self, line: str, style: str = "") -> None:
        # Soft wrapping leaves a long path in one piece, so that it can be copied.
        self._console.print(Text(line, style=style), soft_wrap=True)

    @singledispatchmethod
    def _show(self, event: Event) -> None:
        for line in words.sentences(event):
            self._print(line)

    @_show.register
    def _(self, event: RunStarted) -> None:
        run, *rest = words.sentences(event)
        self._print(run, "bold")
        for line in rest:
            self._print(line)

    @_show.register
    def _(self, event: PlanReady) -> None:
        table = Table("plan", "", "why", box=None, pad_edge=False, header_style="bold")
        for name, value in event.settings.items():
            table.add_row(Text(name), Text(str(value)), Text(event.reasons.get(name, ""), style="dim"))
        self._console.print(table)

    @_show.register
    def _(self, event: PhaseStarted) -> None:
        self._begin(event.phase, event.total)

    @_show.register
    def _(self, event: PhaseProgress) -> None:
        if event.phase in self._tasks:
            figures = str(event.done) if event.total is None else f"{event.done}/{event.total}"
            self._progress.update(self._tasks[event.phase], completed=event.done, total=event.total, figures=figures)

    @_show.register
    def _(self, event: PhaseFinished) -> None:
        self._end(event.phase)
        details = [event.summary, words.peaks(event.peak_ram_gib, event.peak_vram_gib)]
        line = Text(f"{self._done} ", style="green").append(event.phase, style="default")
        line.append(f"  {event.seconds:.1f} s  {'; '.join(text for text in details if text)}".rstrip(), style="dim")
        self._console.print(line, soft_wrap=True)

    @_show.register
    def _(self, event: StepDone) -> None:
        if "train" not in self._tasks:
            self._begin("train", event.total_steps)
        self._loss = _smoothed(self._loss, event.loss)
        self._pace_s = _smoothed(self._pace_s, event.step_s)
        figures = f"{event.step}/{event.total_steps} {words.step_figures(event, self._loss, self._pace_s)}"
        self._progress.update(self._tasks["train"], completed=event.step, figures=figures)

    @_show.register
    def _(self, event: Warned) -> None:
        self._print(words.sentences(event)[0], "yellow")

    @_show.register
    def _(self, event: Failed) -> None:
        self._progress.stop()  # the command says what failed, below everything else

    @_show.register
    def _(self, event: ProofDone) -> None:
        self._print(f"{self._done} {words.sentences(event)[0]}", "green")

    @_show.register
    def _(self, event: RunFinished) -> None:
        self._progress.stop()
        finished, *rest = words.sentences(event)
        self._print(finished, "bold green")
        for line in rest:
            self._print(line)


def _smoothed(before: float | None, value: float) -> float:
    return value if before is None else before + SMOOTHING * (value - before)
