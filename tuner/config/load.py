"""From an argument to a resolved preset: model defaults < preset file < ``--set``, validated once, explained."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from tuner.catalog import registry
from tuner.catalog.spec import ModelSpec
from tuner.config import checks, effects, shipped, weights
from tuner.config.documents import Document, get, leaves, map_paths, read, split_flags, with_flags
from tuner.config.explain import Problem, explain
from tuner.config.schema import SCHEMA_VERSION, Preset
from tuner.errors import ConfigError

Origin = Literal["flag", "preset", "model", "default"]


@dataclass(frozen=True)
class Resolved:
    """A preset with everything filled in that does not depend on the machine."""

    preset: Preset
    base: Path
    """Folder that relative paths in the preset are relative to; absolute."""
    origins: Mapping[str, Origin]
    """Where each value came from, by its dotted path."""
    model: ModelSpec
    name: str
    """Name of the run and of the saved file."""

    @functools.cached_property
    def model_folder(self) -> Path | None:
        """Folder in diffusers layout with the model's weights; None when ``overrides`` replaces every component.

        ``model.path``, else what ships with tuner, else a complete snapshot in the hub's cache. Raises
        ``AccessError`` naming what is missing and the command that fetches it.
        """
        return weights.folder_of(self.preset.model, self.model, self.base)

    @property
    def overrides(self) -> dict[str, Path]:
        """Files and folders that replace components, by component; absolute."""
        return {name: self.path(value) for name, value in self.preset.model.components.items()}

    def path(self, value: str) -> Path:
        """A path of the preset as an absolute path."""
        return Path(os.path.abspath(self.base / Path(value).expanduser()))

    def portable(self) -> Document:
        """The preset with every value spelled out and every path absolute: means the same in any folder."""
        document = self.preset.model_dump(mode="json", by_alias=True, exclude={"schema_"})
        document["name"] = self.name
        spelled = effects.without_idle(document, document, self.model)
        return map_paths(spelled, lambda _, value: str(self.path(value)))


def load_preset(argument: str, overrides: Sequence[str] = ()) -> Resolved:
    """The preset that ``argument`` names (a file, or a shipped preset), changed by ``overrides`` (``a.b=c`` each).

    Paths in a file are relative to it. A shipped preset names what ships with it, and otherwise folders that
    are looked for where one is. Raises ``ConfigError`` with one line per problem.
    """
    path = shipped.find(argument)
    document, base = read(path), path.resolve().parent
    if base == shipped.folder().resolve():
        document = map_paths(document, lambda _, value: value if (base / value).exists() else os.path.abspath(value))
    return resolve(document, base, path.stem, overrides, source=str(path))


def load_run(folder: Path, overrides: Sequence[str] = ()) -> Resolved:
    """The preset of an existing run; raises ``ConfigError`` when ``folder`` holds none."""
    path = folder / "preset.json"
    if not path.is_file():
        raise ConfigError(
            f"{folder} holds no run: there is no preset.json in it",
            hint="give the folder that the run printed when it started",
        )
    return resolve(read(path), path.resolve().parent, folder.resolve().name, overrides, source=str(path))


def resolve(
    document: Document, base: Path, name: str, overrides: Sequence[str] = (), source: str = "preset"
) -> Resolved:
    """Lay the layers over each other, validate once, and compare with the model.

    ``name`` is used when the document has none; ``source`` names the document in messages. Raises
    ``ConfigError`` with all problems.
    """
    _check_version(document, source)
    flags = split_flags(list(overrides))
    given = with_flags(document, flags)
    spec, problems = _model(given)
    defaults = effects.without_idle(spec.defaults, registry.overlay(spec.defaults, given), spec) if spec else {}
    merged = registry.overlay(defaults, given)
    preset = _validated(merged, problems)
    if preset is not None and spec is not None:
        problems += [*effects.refused(given, merged, spec), *checks.check(preset, spec)]
    if problems or preset is None or spec is None:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise ConfigError(f"{source} cannot be used:\n{lines}", hint="`tuner schema` describes every key")
    return Resolved(preset, base, _origins(preset, defaults, document, given, flags), spec, preset.name or name)


def _check_version(document: Document, source: str) -> None:
    version = document.get("schema_version", SCHEMA_VERSION)
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ConfigError(
            f"{source}: this preset has schema_version {version}, and this tuner knows up to {SCHEMA_VERSION}",
            hint="update tuner: pip install --upgrade tuner",
        )


def _model(given: Document) -> tuple[ModelSpec | None, list[Problem]]:
    identity = get(given, "model.id")
    if not isinstance(identity, str):
        return None, []  # the schema says that it is missing or not text
    try:
        return registry.find(identity), []
    except ConfigError as error:
        path, _, text = error.message.partition(": ")
        return None, [Problem(path, f"{text}; {error.hint}")]


def _validated(merged: Document, problems: list[Problem]) -> Preset | None:
    """The preset, or None after adding to ``problems``. JSON mode is strict but takes lists for tuples."""
    try:
        return Preset.model_validate_json(json.dumps(merged), strict=True)
    except ValidationError as error:
        problems += explain(error, merged)
        return None


def _origins(
    preset: Preset, defaults: Document, document: Document, given: Document, flags: Mapping[str, str]
) -> dict[str, Origin]:
    written, shipped_values = dict(leaves(document)), dict(leaves(defaults))
    changed = dict(leaves(given))

    def origin(path: str) -> Origin:
        if path in changed and any(path == flag or path.startswith(f"{flag}.") for flag in flags):
            return "flag"
        if path in written:
            return "preset"
        return "model" if path in shipped_values else "default"

    everything: Any = preset.model_dump(mode="json", by_alias=True)
    return {path: origin(path) for path, _ in leaves(everything)}


def json_schema() -> Document:
    """JSON Schema of a preset, for editors and for other programs; model ids as examples."""
    schema = Preset.model_json_schema(by_alias=True)
    identity = schema["$defs"]["ModelSection"]["properties"]["id"]
    identity["examples"] = list(registry.models())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
