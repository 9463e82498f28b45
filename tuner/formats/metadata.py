"""What a saved file says about itself, in the three vocabularies that programs read.

``modelspec.*`` follows the Stability AI model metadata standard 1.0.1, ``ss_*`` is what kohya's scripts write
and most programs show, ``tuner.*`` is our own summary. Values are strings: the header is a flat map.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from tuner.catalog.spec import ModelSpec
from tuner.config.schema import MethodSection

MODELSPEC_VERSION = "1.0.1"


@dataclass(frozen=True, kw_only=True)
class TrainingFacts:
    """What a run did, as far as the file tells."""

    title: str
    version: str
    """Version of tuner."""
    date: datetime
    steps: int
    epochs: float
    samples: int
    resolution_px: int
    learning_rate: float
    seed: int
    triggers: Sequence[str] = ()
    description: str = ""
    author: str | None = None
    final_loss: float | None = None


def describe(spec: ModelSpec, method: MethodSection, facts: TrainingFacts) -> dict[str, str]:
    """The header of an adapter file. Captions stay private: only the trigger words are named."""
    return {
        **_modelspec(spec, method, facts),
        **_kohya(spec, method, facts),
        **_triggers(facts),
        **_summary(spec, method, facts),
    }


def _modelspec(spec: ModelSpec, method: MethodSection, facts: TrainingFacts) -> dict[str, str]:
    entries = {
        "sai_model_spec": MODELSPEC_VERSION,
        "architecture": f"{spec.save.architecture}/{'lora' if method.kind in ('lora', 'dora') else method.kind}",
        "implementation": "diffusers",
        "title": facts.title,
        "resolution": f"{facts.resolution_px}x{facts.resolution_px}",
        "description": facts.description or f"{method.kind} for {spec.title}",
        "date": facts.date.isoformat(timespec="seconds"),
        "license": spec.licence,
    }
    if facts.author:
        entries["author"] = facts.author
    if spec.objective.prediction != "flow":
        entries["prediction_type"] = {"epsilon": "epsilon", "v_prediction": "v"}[spec.objective.prediction]
    return {f"modelspec.{key}": value for key, value in entries.items()}


def _kohya(spec: ModelSpec, method: MethodSection, facts: TrainingFacts) -> dict[str, str]:
    """Alpha is the rank, since the real one is multiplied into the tensors; readers divide one by the other."""
    lycoris = method.kind in ("lokr", "loha")
    entries = {
        "base_model_version": spec.save.base_version,
        "sd_model_name": spec.title,
        "network_module": "lycoris.kohya" if lycoris else "networks.lora",
        "network_dim": str(method.rank),
        "network_alpha": str(float(method.rank)),
        "network_args": json.dumps({"algo": method.kind} if lycoris else {}),
        "output_name": facts.title,
        "resolution": f"({facts.resolution_px}, {facts.resolution_px})",
        "num_train_images": str(facts.samples),
        "steps": str(facts.steps),
        "epoch": str(max(1, round(facts.epochs))),
        "learning_rate": str(facts.learning_rate),
        "seed": str(facts.seed),
        "v2": "False",
    }
    return {f"ss_{key}": value for key, value in entries.items()}


def _triggers(facts: TrainingFacts) -> dict[str, str]:
    """The four places where programs look for trigger words."""
    words = list(dict.fromkeys(facts.triggers))
    if not words:
        return {}
    return {
        "modelspec.trigger_phrase": ", ".join(words),
        "modelspec.usage_hint": f"write {' or '.join(words)} in the prompt",
        "trained_words": json.dumps(words),
        "ss_tag_frequency": json.dumps({f"1_{word}": {word: facts.samples} for word in words}),
    }


def _summary(spec: ModelSpec, method: MethodSection, facts: TrainingFacts) -> dict[str, str]:
    entries = {
        "version": facts.version,
        "model": spec.id,
        "method": method.kind,
        "rank": str(method.rank),
        "alpha": str(method.effective_alpha),
        "rslora": str(method.rslora).lower(),
        "steps": str(facts.steps),
        "epochs": f"{facts.epochs:.2f}",
        "samples": str(facts.samples),
    }
    if facts.final_loss is not None:
        entries["final_loss"] = f"{facts.final_loss:.6f}"
    return {f"tuner.{key}": value for key, value in entries.items()}
