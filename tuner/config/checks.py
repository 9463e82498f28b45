"""What a valid preset may still ask of a model that has no such thing. Nothing asked for is ignored in silence."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tuner.catalog.spec import ModelSpec
from tuner.config.explain import Problem, suggestion
from tuner.config.schema import DataSection, Preset, PreviewPrompt


def check(preset: Preset, spec: ModelSpec) -> list[Problem]:
    """Everything ``preset`` asks that ``spec`` cannot give, in the preset's order."""
    return [
        *_name(preset),
        *_model(preset, spec),
        *_method(preset, spec),
        *(problem for index, source in enumerate(preset.data) for problem in _source(index, source, spec)),
        *_learning_rates(preset, spec),
        *_guidance(preset, spec),
        *_preview(preset, spec),
        *_save(preset),
    ]


def _name(preset: Preset) -> Iterator[Problem]:
    if preset.name is not None and not re.fullmatch(r"[\w][\w .()+-]*", preset.name):
        yield Problem("name", f"{preset.name!r} cannot be the name of a file: use letters, digits, '-', '_' and '.'")


def _model(preset: Preset, spec: ModelSpec) -> Iterator[Problem]:
    for name in preset.model.components:
        if name not in spec.components:
            yield Problem(f"model.components.{name}", _no_such_component(name, list(spec.components), spec))
    if preset.model.revision is not None and preset.model.path is not None:
        yield Problem("model.revision", "has no effect with model.path: remove one of them")
    elif preset.model.revision is not None and spec.download is None:
        yield Problem("model.revision", f"has no effect: {spec.id} comes with tuner and is not downloaded")


def _method(preset: Preset, spec: ModelSpec) -> Iterator[Problem]:
    if preset.method.kind not in spec.methods:
        offered = ", ".join(spec.methods)
        yield Problem("method.kind", f"{spec.id} cannot be trained with {preset.method.kind!r}; it can with: {offered}")
    if preset.method.train == "default":
        return
    if not preset.method.train:
        yield Problem("method.train", "is empty: nothing is left to train")
    for index, name in enumerate(preset.method.train):
        if name not in spec.trainable:
            yield Problem(f"method.train.{index}", _no_such_component(name, spec.trainable, spec, "trainable "))


def _no_such_component(name: str, known: list[str], spec: ModelSpec, what: str = "") -> str:
    close = suggestion(name, known) or f"; it has: {', '.join(known)}"
    return f"{spec.id} has no {what}component {name!r}{close}"


def _source(index: int, source: DataSection, spec: ModelSpec) -> Iterator[Problem]:
    path = f"data.{index}"
    if source.kind == "clips" and spec.modality != "video":
        yield Problem(f"{path}.kind", f"{spec.id} is an {spec.modality} model and does not train on clips")
    still = f"{spec.id} is an {spec.modality} model" if spec.modality != "video" else "data.kind is 'images'"
    if spec.modality != "video" or source.kind == "images":
        for option in ("frames", "fps"):
            if getattr(source, option) != "auto":
                yield Problem(f"{path}.{option}", f"has no effect: {still}")
    count = len(source.references)
    if count and not spec.references:
        yield Problem(f"{path}.references", f"{spec.id} takes no reference images")
    elif count > spec.references > 0:
        yield Problem(f"{path}.references", f"{spec.id} takes {spec.references} per sample, not {count}")


def _learning_rates(preset: Preset, spec: ModelSpec) -> Iterator[Problem]:
    trained = list(spec.denoisers) if preset.method.train == "default" else preset.method.train
    for name in preset.training.learning_rates:
        path = f"training.learning_rates.{name}"
        if name in trained:
            continue
        if name in spec.trainable:
            yield Problem(path, f"has no effect: {name} is not trained; add it to method.train")
        else:
            yield Problem(path, _no_such_component(name, trained, spec, "trained "))


def _guidance(preset: Preset, spec: ModelSpec) -> Iterator[Problem]:
    if preset.objective.guidance != "auto" and spec.objective.guidance is None:
        yield Problem("objective.guidance", f"has no effect: {spec.id} does not embed guidance")


def _preview(preset: Preset, spec: ModelSpec) -> Iterator[Problem]:
    if preset.preview.frames != "auto" and spec.modality != "video":
        yield Problem("preview.frames", f"has no effect: {spec.id} is an {spec.modality} model")
    for index, prompt in enumerate(preset.preview.prompts):
        if not isinstance(prompt, PreviewPrompt) or not prompt.references:
            continue
        path = f"preview.prompts.{index}.references"
        if not spec.references:
            yield Problem(path, f"{spec.id} takes no reference images")
        elif len(prompt.references) > spec.references > 0:
            yield Problem(path, f"{spec.id} takes {spec.references} per picture, not {len(prompt.references)}")


def _save(preset: Preset) -> Iterator[Problem]:
    if preset.method.kind == "full" and preset.save.format not in ("auto", "diffusers"):
        yield Problem("save.format", "a full fine-tune is saved as a diffusers folder: use 'auto'")
