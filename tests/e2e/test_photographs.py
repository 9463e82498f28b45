"""A whole run on real photographs: those inside scikit-image and scikit-learn, with a tiny SDXL."""

import json
import shutil

import pytest
import skimage.data
import torch
from PIL import Image
from safetensors import safe_open
from sklearn.datasets import load_sample_images

from tests.families.tiny import sdxl
from tuner.config.load import load_preset
from tuner.errors import ConfigError
from tuner.training.run import run_preset

NAMES = ("astronaut", "chelsea", "coffee", "rocket", "camera", "coins")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Eight photographs of different sizes and modes, one of them grey, with captions."""
    folder = tmp_path_factory.mktemp("photographs")
    pictures = {name: getattr(skimage.data, name)() for name in NAMES}
    pictures |= dict(zip(("temple", "flower"), load_sample_images().images, strict=True))
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(folder / f"{name}.jpg")
        (folder / f"{name}.txt").write_text(f"a photograph of {name}")
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdxl")
    sdxl.build("sdxl-base", folder)
    return folder


def test_sdxl_learns_from_photographs(tmp_path, monkeypatch, recorder, photographs, base):
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))
    preset = {
        "name": "photographs",
        "model": {"id": "sdxl-base", "path": str(base)},
        "method": {"kind": "lora", "rank": 4, "train": ["unet", "text_encoder", "text_encoder_2"]},
        "data": [{"path": str(photographs), "resolution_px": [128, 192], "captions": {"trigger": "snapshot"}}],
        "training": {
            "steps": 6,
            "batch_size": 3,
            "gradient_accumulation": 2,
            "learning_rate": 1e-3,
            "learning_rates": {"text_encoder": 1e-4, "text_encoder_2": 1e-4},
        },
        "objective": {"weighting": "min_snr"},
        "preview": {"prompts": ["a photograph of a cat"], "steps": 2, "width_px": 128, "height_px": 96},
        "validation": {"share": 0.2, "every_steps": 3, "quantiles": 2},
        "memory": {"gradient_checkpointing": True},
        "save": {"every_steps": 3},
        "track": ["tensorboard"],
    }
    path = tmp_path / "photographs.json"
    path.write_text(json.dumps(preset))
    result = run_preset(load_preset(str(path)), tmp_path / "run", [recorder])

    assert result["steps"] == 6 and result["proof"]["relative_error"] < 0.05
    assert [event.step for event in recorder.of("validation")] == [0, 3, 6]
    with Image.open(tmp_path / "run" / "samples" / "step-000006-00.png") as picture:
        assert picture.size == (128, 96)
    assert list((tmp_path / "run" / "trackers").rglob("events.out.tfevents.*"))
    with safe_open(result["lora"], "pt") as file:
        prefixes = {name.split("_")[1] for name in file.keys()}  # noqa: SIM118 - not a dictionary
        metadata = file.metadata()
        assert all(torch.isfinite(file.get_tensor(name)).all() for name in file.keys())  # noqa: SIM118
    assert prefixes == {"unet", "te1", "te2"}
    assert metadata["modelspec.trigger_phrase"] == "snapshot"
    assert metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"


def test_a_v_prediction_model_is_not_trained_as_epsilon(tmp_path, photographs, base):
    folder = tmp_path / "model"
    shutil.copytree(base, folder)
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"prediction_type": "v_prediction"}))
    path = tmp_path / "preset.json"
    path.write_text(
        json.dumps({"model": {"id": "sdxl-base", "path": str(folder)}, "data": [{"path": str(photographs)}]})
    )
    with pytest.raises(ConfigError, match="v-prediction model") as caught:
        run_preset(load_preset(str(path)), tmp_path / "run", [])
    assert "objective.prediction=v_prediction" in caught.value.hint
