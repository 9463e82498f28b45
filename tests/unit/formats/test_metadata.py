from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from tests.unit.formats.conftest import spec_of
from tuner.config.schema import MethodSection
from tuner.formats.metadata import TrainingFacts, describe

FACTS = {
    "title": "My style",
    "version": "0.1.0",
    "date": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    "steps": 500,
    "epochs": 12.5,
    "samples": 20,
    "resolution_px": 1024,
    "learning_rate": 1e-4,
    "seed": 7,
    "final_loss": 0.25,
}


def described(family: str = "flux", triggers=(), **method) -> dict[str, str]:
    return describe(spec_of(family), MethodSection(**method), TrainingFacts(**FACTS, triggers=triggers))


def test_the_standard_is_met():
    found = described()
    assert found["modelspec.sai_model_spec"] == "1.0.1"
    assert found["modelspec.architecture"] == "arch-flux/lora"
    assert found["modelspec.date"] == "2026-01-02T03:04:05+00:00"
    assert found["modelspec.resolution"] == "1024x1024"
    for key in ("implementation", "title", "description", "license"):
        assert found[f"modelspec.{key}"]


def test_values_are_strings():
    assert {type(value) for value in described(triggers=["sks"]).values()} == {str}


def test_alpha_is_the_rank_because_the_real_one_is_in_the_tensors():
    found = described(rank=8, alpha=32.0)
    assert (found["ss_network_dim"], found["ss_network_alpha"]) == ("8", "8.0")
    assert found["tuner.alpha"] == "32.0"


def test_base_and_training_for_programs_that_show_them():
    found = described()
    assert found["ss_base_model_version"] == "base_flux"
    assert found["ss_output_name"] == "My style"
    assert (found["ss_steps"], found["ss_epoch"], found["ss_num_train_images"]) == ("500", "12", "20")
    assert found["ss_resolution"] == "(1024, 1024)"
    assert found["tuner.final_loss"] == "0.250000"


def test_triggers_stand_in_four_places():
    found = described(triggers=["sks", "sks", "zwx"])
    assert found["modelspec.trigger_phrase"] == "sks, zwx"
    assert "sks" in found["modelspec.usage_hint"]
    assert json.loads(found["trained_words"]) == ["sks", "zwx"]
    assert json.loads(found["ss_tag_frequency"]) == {"1_sks": {"sks": 20}, "1_zwx": {"zwx": 20}}


def test_without_triggers_nothing_is_said_about_them():
    assert not {"modelspec.trigger_phrase", "trained_words", "ss_tag_frequency"} & described().keys()


@pytest.mark.parametrize(
    ("kind", "module"), [("lokr", "lycoris.kohya"), ("loha", "lycoris.kohya"), ("lora", "networks.lora")]
)
def test_the_method_is_named(kind, module):
    found = described(kind=kind)
    assert found["ss_network_module"] == module
    assert json.loads(found["ss_network_args"]).get("algo") == (kind if "lycoris" in module else None)


def test_diffusion_models_say_what_they_predict():
    assert described("sdxl")["modelspec.prediction_type"] == "epsilon"
    assert "modelspec.prediction_type" not in described("flux")
