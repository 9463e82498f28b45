"""The preset as a plain document: reading it, changing it by ``--set``, and finding the paths in it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from tuner.config.explain import annotations_at
from tuner.errors import ConfigError

Document = dict[str, Any]

PATH_VALUES = re.compile(
    r"model\.path|model\.components\.[^.]+|data\.\d+\.(path|masks|references\.\d+)|preview\.prompts\.\d+\.references\.\d+"
)
"""Where a preset names files and folders."""


def read(path: Path) -> Document:
    """The JSON object in ``path``; raises ``ConfigError`` with line, column and the line itself."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text in UTF-8", hint="a preset is a JSON file") from error
    try:
        document = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        line = text.split("\n")[error.lineno - 1]
        raise ConfigError(
            f"{path}:{error.lineno}:{error.colno}: {error.msg}\n  {line}\n  {' ' * (error.colno - 1)}^",
            hint="JSON wants double quotes, no comma after the last entry, and no comments",
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: a preset is a JSON object, {{...}}", hint="`tuner presets show demo` prints one")
    return document


def _without_duplicates(pairs: list[tuple[str, Any]]) -> Document:
    document: Document = {}
    for key, value in pairs:
        if key in document:
            raise ValueError(f"the key {key!r} appears twice in one object; only one of them would count")
        document[key] = value
    return document


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number that JSON allows")


def with_flags(document: Document, flags: Mapping[str, str]) -> Document:
    """A copy of ``document`` with each ``a.b.0.c`` set to its text, read as JSON where that is possible.

    Indices may replace a list's entry or append one. Relative paths become absolute: whoever types a
    path means the folder they are in, not the preset's. Raises ``ConfigError`` for an impossible place.
    """
    changed: Document = json.loads(json.dumps(document))
    for flag, text in flags.items():
        parts = tuple(int(part) if part.isdigit() else part for part in flag.split("."))
        _set(changed, parts, _parsed(text, annotations_at(parts)), flag)

    def absolute(path: str, value: str) -> str:
        typed = any(path == flag or path.startswith(f"{flag}.") for flag in flags)
        return os.path.abspath(Path(value).expanduser()) if typed else value

    return map_paths(changed, absolute)


def split_flags(flags: list[str]) -> dict[str, str]:
    """``["a.b=c"]`` as ``{"a.b": "c"}``; raises ``ConfigError`` for an entry without ``=``."""
    for flag in flags:
        if not re.match(r"[^=.]+(\.[^=.]+)*=", flag):
            raise ConfigError(f"--set {flag}: expected KEY=VALUE", hint="for example --set training.steps=500")
    return dict(flag.split("=", 1) for flag in flags)


def _parsed(text: str, annotations: list[Any]) -> Any:
    # A field for text takes what was typed as it is: `--set name=2024` is a name, not a number.
    if annotations and set(annotations) <= {str, NoneType} and not text.startswith('"') and text != "null":
        return text
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except ValueError:
        return text


def _set(document: Document, parts: tuple[str | int, ...], value: Any, flag: str) -> None:
    here: Any = document
    key: Any
    for number, part in enumerate(parts):
        if isinstance(here, list):
            key = _index(here, part, ".".join(str(p) for p in parts[:number]), flag)
            current = here[key] if key < len(here) else None
        else:
            key = str(part)
            current = here.get(key)
        if number == len(parts) - 1:
            following = value
        elif isinstance(current, dict | list):
            following = current
        else:
            following = [] if isinstance(parts[number + 1], int) else {}
        if isinstance(here, list) and key == len(here):
            here.append(following)
        else:
            here[key] = following
        here = following


def _index(entries: list[Any], part: str | int, place: str, flag: str) -> int:
    if isinstance(part, int) and part <= len(entries):
        return part
    raise ConfigError(
        f"--set {flag}: {place} has no entry {part}; it has {len(entries)}",
        hint=f"entries count from 0, and {place}.{len(entries)} adds one",
    )


def map_paths(document: Document, change: Callable[[str, str], str]) -> Document:
    """A copy of ``document`` with ``change(dotted path, value)`` for every file or folder it names."""

    def walk(value: Any, path: str) -> Any:
        if isinstance(value, dict):
            return {key: walk(inner, f"{path}.{key}" if path else key) for key, inner in value.items()}
        if isinstance(value, list):
            return [walk(inner, f"{path}.{index}") for index, inner in enumerate(value)]
        return change(path, value) if isinstance(value, str) and PATH_VALUES.fullmatch(path) else value

    changed: Document = walk(document, "")
    return changed


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of everything that is not a table; lists count as tables where they hold tables."""
    inner: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
        inner = list(enumerate(value))
    if not inner:
        yield path, value
    for key, below in inner:
        yield from leaves(below, f"{path}.{key}" if path else str(key))


def get(document: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path of keys; None where there is none."""
    here: Any = document
    for part in path.split("."):
        if not isinstance(here, Mapping):
            return None
        here = here.get(part)
    return here
