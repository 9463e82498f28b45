"""Turns what pydantic refuses into sentences: where, what was expected, what was there, the closest name."""

from __future__ import annotations

import difflib
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from tuner.config.schema import Preset

Path = tuple[str | int, ...]
"""Where something stands in a preset: keys and list indices."""

EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "none_required": "null",
    "literal_error": "{expected}",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "missing": "a list of more entries",
}
"""Error types of pydantic that say what a value must be; the others bring a sentence of their own."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a preset."""

    path: str
    """Dotted, ``data.0.path``; empty for the preset as a whole."""
    text: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.path}: {self.text}" if self.path else self.text


def dotted(path: Path) -> str:
    """``("data", 0, "path")`` as ``data.0.path``."""
    return ".".join(str(part) for part in path)


def suggestion(word: str, known: Sequence[str]) -> str:
    """``; did you mean 'x'?`` with the name closest to ``word``, or nothing."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def explain(error: ValidationError, document: Mapping[str, Any]) -> list[Problem]:
    """The problems of ``document``, in the schema's order.

    A value that may be of several types yields one error for each: those become one sentence. When one of the
    types got further into the value than the others, only what stopped it there is told.
    """
    expectations: dict[Path, list[str]] = {}
    sentences: dict[Path, list[str]] = {}
    places: dict[Path, None] = {}
    for item in error.errors(include_url=False):
        kind, context = item["type"], item.get("ctx", {})
        path = _place(item["loc"], document, missing=kind == "missing")
        places[path] = None
        if kind == "extra_forbidden":
            sentences.setdefault(path, []).append(_unknown(path))
        elif kind == "missing" and isinstance(item["loc"][-1], str):
            sentences.setdefault(path, []).append("is required")
        elif kind in EXPECTED:
            expectations.setdefault(path, []).append(EXPECTED[kind].format(**context))
        else:
            sentences.setdefault(path, []).append(str(context.get("error", item["msg"])))
    for path, expected in expectations.items():
        if not any(len(other) > len(path) and other[: len(path)] == path for other in places):
            sentences.setdefault(path, []).append(_mismatch(expected, _value(document, path)))
    return [Problem(dotted(path), text) for path in places for text in dict.fromkeys(sentences.get(path, []))]


def annotations_at(path: Path) -> list[Any]:
    """The types the schema allows at ``path``, unions taken apart; none for an unknown place."""
    level: list[Any] = [Preset]
    for part in path:
        level = [inner for annotation in level for inner in _inside(annotation, part)]
    return level


def _inside(annotation: Any, part: str | int) -> Iterator[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            if (field.alias or name) == part:
                yield from _alternatives(field.annotation)
        return
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) in (list, tuple) and isinstance(part, int):
        yield from _alternatives(arguments[0])
    elif typing.get_origin(annotation) is dict:
        yield from _alternatives(arguments[1])


def _alternatives(annotation: Any) -> Iterator[Any]:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        yield from _alternatives(typing.get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType):
        for option in typing.get_args(annotation):
            yield from _alternatives(option)
    else:
        yield annotation


def _keys(annotations: Sequence[Any]) -> list[str]:
    sections = [a for a in annotations if isinstance(a, type) and issubclass(a, BaseModel)]
    return [field.alias or name for section in sections for name, field in section.model_fields.items()]


def _unknown(path: Path) -> str:
    key = str(path[-1])
    close = suggestion(key, _keys(annotations_at(path[:-1])))
    if not close:
        homes = [repr(dotted(place)) for place in _every_key((), Preset) if place[-1] == key]
        close = f"; did you mean {' or '.join(homes)}?" if homes else ""
    return f"there is no such key{close}"


def _every_key(prefix: Path, section: type[BaseModel]) -> Iterator[Path]:
    for name, field in section.model_fields.items():
        place = (*prefix, field.alias or name)
        yield place
        for annotation in _alternatives(field.annotation):
            listed = typing.get_origin(annotation) is list
            for inner in _alternatives(typing.get_args(annotation)[0]) if listed else [annotation]:
                if isinstance(inner, type) and issubclass(inner, BaseModel):
                    yield from _every_key((*place, 0) if listed else place, inner)


def _place(location: Sequence[str | int], document: Any, missing: bool) -> Path:
    """pydantic's location without the names of union members, which are no part of the document."""
    place: list[str | int] = []
    for number, part in enumerate(location):
        if _holds(document, part):
            document = document[part]
        elif not (missing and number == len(location) - 1 and isinstance(document, Mapping)):
            continue
        place.append(part)
    return tuple(place)


def _holds(document: Any, part: str | int) -> bool:
    if isinstance(document, list):
        return isinstance(part, int) and part < len(document)
    return isinstance(document, Mapping) and part in document


def _value(document: Any, path: Path) -> Any:
    for part in path:
        document = document[part]
    return document


def _mismatch(expected: Sequence[str], value: Any) -> str:
    found = json.dumps(value, ensure_ascii=False)
    if len(found) > 60:
        found = found[:57] + "..."
    sentence = f"must be {' or '.join(dict.fromkeys(expected))}, not {found}"
    if isinstance(value, str):
        sentence += suggestion(value, [name for text in expected for name in re.findall(r"'([^']+)'", text)])
    return sentence
