"""`tuner presets` and `tuner schema`: what can be run, and how to write one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.render.columns import columns
from tuner.config import shipped
from tuner.errors import ConfigError

app = typer.Typer(help="The presets that come with tuner.", no_args_is_help=True, rich_markup_mode=None)


def complete(incomplete: str) -> list[str]:
    """Names of shipped presets for the shell's completion."""
    return [name for name in shipped.names() if name.startswith(incomplete)]


Name = Annotated[str, typer.Argument(help="Name of a shipped preset.", autocompletion=complete)]


@app.command("ls")
def ls(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """List the shipped presets."""
    rows = [_summary(name) for name in shipped.names()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    header = ["PRESET", "MODEL", "METHOD", "DESCRIPTION"]
    typer.echo(columns([header, *([row["name"], row["model"], row["method"], row["description"]] for row in rows)]))


def _summary(name: str) -> dict[str, Any]:
    document = json.loads(shipped.path_of(name).read_text(encoding="utf-8"))
    return {
        "name": name,
        "model": document["model"]["id"],
        "method": document.get("method", {}).get("kind", "lora"),
        "description": document.get("description", ""),
        "path": str(shipped.path_of(name)),
    }


@app.command("show")
def show(name: Name) -> None:
    """Print a shipped preset."""
    typer.echo(shipped.path_of(name).read_text(encoding="utf-8"), nl=False)


@app.command("copy")
def copy(
    name: Name,
    destination: Annotated[Path, typer.Argument(help="File to write, or a folder.", metavar="DEST")] = Path(),
) -> None:
    """Copy a shipped preset, to change it. Prints the path of the copy."""
    from tuner.config.documents import map_paths, read
    from tuner.rundir import disk_errors, write_json

    source = shipped.path_of(name)
    target = destination / source.name if destination.is_dir() else destination
    if target.exists():
        raise ConfigError(f"{target} exists", hint=f"choose another name: tuner presets copy {name} DEST")

    def found_again(_: str, value: str) -> str:
        beside = source.parent / value
        return str(beside) if beside.exists() else value

    with disk_errors(f"cannot write {target}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_json(target, map_paths(read(source), found_again))
    typer.echo(target)


def schema() -> None:
    """Print the JSON Schema of a preset, for editors and other programs."""
    from tuner.config.load import json_schema

    typer.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))
