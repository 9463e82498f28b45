"""The presets that come with tuner: where they are, what they are called, and which one is meant."""

from __future__ import annotations

import difflib
from pathlib import Path

from tuner.errors import ConfigError

SHIPPED_FOLDERS = (Path(__file__).parent.parent / "presets", Path(__file__).parents[2] / "presets")
"""Inside an installed wheel, and in a checkout of the repository."""


def folder() -> Path:
    """Where shipped presets are; paths in them are relative to it."""
    return next((path for path in SHIPPED_FOLDERS if path.is_dir()), SHIPPED_FOLDERS[0])


def names() -> list[str]:
    """Names of all shipped presets, sorted: what `tuner run` takes in place of a path."""
    return sorted(path.stem for path in folder().glob("*.json"))


def path_of(name: str) -> Path:
    """The file of the shipped preset ``name`` (with or without ``.json``); ``ConfigError`` with the closest name."""
    stem = name.removesuffix(".json")
    if stem in names():
        return folder() / f"{stem}.json"
    raise ConfigError(f"there is no shipped preset {name!r}", hint=_hint(stem))


def find(argument: str) -> Path:
    """The preset that ``argument`` means: an existing file, or a shipped preset's name.

    Raises ``ConfigError`` with the closest shipped name when it is neither.
    """
    path = Path(argument).expanduser()
    if path.is_file():
        return path
    stem = argument.removesuffix(".json")
    if stem in names():
        return folder() / f"{stem}.json"
    if (path / "preset.json").is_file():
        raise ConfigError(f"{argument} is the folder of a run", hint=f"tuner run --resume {argument}")
    if path.is_dir():
        raise ConfigError(
            f"{argument} is a folder, not a preset", hint="give a JSON file, or a name from: tuner presets ls"
        )
    raise ConfigError(f"there is no preset {argument!r}: no such file, and no shipped one", hint=_hint(path.stem))


def _hint(stem: str) -> str:
    close = difflib.get_close_matches(stem, names(), n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else "`tuner presets ls` lists the shipped presets"
