"""Reads every family's ``spec.toml`` and answers what models there are. Imports no framework.

A spec is one family table plus ``[[models]]``: each model is the family's values with its own laid over
them, key by key, so that a variant states only what differs.
"""

from __future__ import annotations

import difflib
import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.errors import ConfigError

if TYPE_CHECKING:
    from tuner.catalog.spec import ModelSpec

FAMILIES_FOLDER = Path(__file__).parent.parent / "families"


def overlay(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` laid on ``base``: tables merge key by key, anything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        both_tables = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = overlay(below, value) if both_tables else value  # type: ignore[arg-type]
    return merged


@functools.cache
def models() -> dict[str, ModelSpec]:
    """All models by id, families in alphabetical order, models in spec order."""
    found: dict[str, ModelSpec] = {}
    for path in sorted(FAMILIES_FOLDER.glob("*/spec.toml")):
        for model in read_spec(path):
            if model.id in found:
                raise ValueError(f"{path}: the model id {model.id!r} is taken by family {found[model.id].family}")
            found[model.id] = model
    return found


def documents(path: Path) -> list[dict[str, Any]]:
    """The models of one ``spec.toml`` as they stand there, the family's values filled in; not validated."""
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    entries = document.pop("models", [])
    return [_model(document, entry) for entry in entries]


def _model(family: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    if "bundled" in entry:  # what ships with the project is not downloaded; TOML cannot say "none"
        family = {key: value for key, value in family.items() if key != "download"}
    return overlay(family, entry)


def listing() -> list[dict[str, Any]]:
    """``documents`` of every family: enough for a list of models, in a third of the time that validation takes."""
    return [entry for path in sorted(FAMILIES_FOLDER.glob("*/spec.toml")) for entry in documents(path)]


def read_spec(path: Path) -> list[ModelSpec]:
    """The models of one ``spec.toml``; raises ``ValueError`` naming the file when it is not valid."""
    # Lists of models are shown without validation: they do not wait for pydantic.
    from pydantic import ValidationError

    from tuner.catalog.spec import ModelSpec

    try:
        return [ModelSpec.model_validate(document) for document in documents(path)]
    except ValidationError as error:
        raise ValueError(f"{path}: {error}") from error


def find(model_id: str) -> ModelSpec:
    """The model called ``model_id``; raises ``ConfigError`` with the closest name otherwise."""
    known = models()
    if model_id in known:
        return known[model_id]
    close = difflib.get_close_matches(model_id, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "`tuner models` lists all models"
    raise ConfigError(f"model.id: there is no model {model_id!r}", hint=hint)
