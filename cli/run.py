"""`tuner run`: train what a preset describes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.crash import Crash
from cli.presets import complete
from tuner.errors import ConfigError

if TYPE_CHECKING:
    from tuner.config.load import Resolved
    from tuner.events import Sink

RUNS_FOLDER = Path("runs")


def run(
    context: typer.Context,
    *,
    preset: Annotated[
        str | None,
        typer.Argument(
            help="A preset file, or the name of a shipped one (`tuner presets ls`).", autocompletion=complete
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder of the run; runs/NAME by default. One that holds this run is gone on with."
        ),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Go on with the run in this folder.", metavar="RUN")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a value: training.steps=500. Repeatable.", metavar="KEY=VALUE"),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the run and of the saved file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON event per line on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors and the result's path.")] = False,
) -> None:
    """Train what a preset describes, and print the path of the finished file."""
    flags = [*(overrides or []), *([f"name={name}"] if name is not None else [])]
    resolved, folder = _what(preset, output, resume, flags)
    context.ensure_object(Crash).run = folder
    result = _execute(resolved, folder, _sinks(folder, as_json, quiet), resume is not None)
    if not as_json:
        artifact = result["artifact"]
        for path in artifact if isinstance(artifact, list) else [artifact]:
            typer.echo(path)


def _what(preset: str | None, output: Path | None, resume: Path | None, flags: list[str]) -> tuple[Resolved, Path]:
    from tuner.config.load import load_preset, load_run

    if resume is not None:
        if preset is not None or output is not None or flags:
            raise ConfigError(
                "--resume goes on with a run as it is: it takes no preset, --output, --name or --set",
                hint=f"tuner run --resume {resume}",
            )
        return load_run(resume), resume
    if preset is None:
        raise ConfigError("which preset?", hint="tuner run PRESET; `tuner presets ls` lists what there is")
    resolved = load_preset(preset, flags)
    return resolved, output if output is not None else RUNS_FOLDER / resolved.name


def _sinks(folder: Path, as_json: bool, quiet: bool) -> list[Sink]:
    from cli.render.lenient import Lenient
    from cli.render.lines import LineSink, LogSink

    sinks: list[Sink] = [LogSink(folder / "log.txt")]
    if as_json:
        from cli.render.jsonl import JsonSink

        sinks.append(JsonSink(sys.stdout))
    elif not quiet:
        sinks.append(_live() if is_interactive() else LineSink(sys.stderr))
    return [Lenient(sink) for sink in sinks]


def _live() -> Sink:
    from rich.console import Console

    from cli.render.live import LiveSink

    return LiveSink(Console(stderr=True))


def is_interactive() -> bool:
    """Whether a person watches stderr on a terminal that can redraw lines, and wants that."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")


def _execute(resolved: Resolved, folder: Path, sinks: list[Sink], resume: bool) -> dict[str, Any]:
    try:
        # Takes seconds: torch and diffusers. Everything that can be refused without them has been by now.
        from tuner.training.run import run_preset

        return run_preset(resolved, folder, sinks, resume)
    finally:
        for sink in sinks:
            sink.close()
