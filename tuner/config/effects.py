"""Options that count only when another option has a certain value: given anyway, they are refused.

What a model's defaults say about such an option is dropped instead: a person who picks another method or
schedule has not asked for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tuner.catalog.spec import ModelSpec
from tuner.config.documents import Document, get
from tuner.config.explain import Problem
from tuner.config.schema import METHOD_UNUSED, Preset


@dataclass(frozen=True)
class Rule:
    """``option`` has an effect only while ``ruler`` is one of ``values``; all dotted paths."""

    option: str
    ruler: str
    values: tuple[str, ...]


def _of_method() -> Iterator[Rule]:
    for option in sorted(frozenset().union(*METHOD_UNUSED.values())):
        users = tuple(kind for kind, unused in METHOD_UNUSED.items() if option not in unused)
        yield Rule(f"method.{option}", "method.kind", users)


RULES = (
    *_of_method(),
    Rule("objective.timesteps.mean", "objective.timesteps.sampling", ("logit_normal",)),
    Rule("objective.timesteps.std", "objective.timesteps.sampling", ("logit_normal",)),
    Rule("objective.timesteps.mode_scale", "objective.timesteps.sampling", ("mode",)),
    Rule("objective.timesteps.beta", "objective.timesteps.sampling", ("beta",)),
    Rule(
        "objective.timesteps.shift",
        "objective.timesteps.sampling",
        ("uniform", "logit_normal", "mode", "cosmap", "beta"),
    ),
    Rule("objective.loss.c", "objective.loss.kind", ("huber", "smooth_l1")),
    Rule("objective.snr_gamma", "objective.weighting", ("min_snr", "soft_min_snr")),
    Rule("training.bf16_update", "method.kind", ("full",)),
    Rule("training.schedule.end_factor", "training.schedule.name", ("linear", "cosine", "rex", "wsd")),
    Rule("training.schedule.decay_share", "training.schedule.name", ("wsd",)),
)


def effective(document: Mapping[str, Any], path: str, spec: ModelSpec) -> Any:
    """The value that counts at a ruler's ``path``: the document's, else the schema's default, ``auto`` resolved."""
    value = get(document, path)
    if value is None:
        value = _schema_default(path)
    if path == "objective.timesteps.sampling" and value == "auto":
        return spec.objective.sampling
    return value


def _schema_default(path: str) -> Any:
    section: Any = Preset
    *parents, name = path.split(".")
    for parent in parents:
        section = section.model_fields[parent].annotation
    return section.model_fields[name].default


def without_idle(document: Document, ruling: Mapping[str, Any], spec: ModelSpec) -> Document:
    """``document`` without the options that have no effect under the values of ``ruling``."""
    kept = document
    for rule in RULES:
        if effective(ruling, rule.ruler, spec) not in rule.values:
            kept = _without(kept, rule.option.split("."))
    return kept


def refused(given: Mapping[str, Any], ruling: Mapping[str, Any], spec: ModelSpec) -> list[Problem]:
    """A problem for every option in ``given`` that has no effect under the values of ``ruling``."""
    problems = []
    for rule in RULES:
        value = effective(ruling, rule.ruler, spec)
        if _stands(given, rule.option) and value not in rule.values:
            problems.append(Problem(rule.option, f"has no effect with {rule.ruler} {value!r}: remove it"))
    return problems


def _stands(document: Mapping[str, Any], path: str) -> bool:
    parent, _, key = path.rpartition(".")
    table = get(document, parent)
    return isinstance(table, Mapping) and key in table


def _without(document: Document, parts: list[str]) -> Document:
    key, *below = parts
    if key not in document:
        return document
    if not below:
        return {name: value for name, value in document.items() if name != key}
    inner = document[key]
    return {**document, key: _without(inner, below)} if isinstance(inner, dict) else document
