"""Training on a CUDA GPU: bf16 weights, 8-bit optimizer, block checkpointing, resume. Run with `make test-gpu`."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tuner.config.load import load_preset
from tuner.training.run import run_preset

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]


@pytest.fixture
def run(tmp_path, monkeypatch, recorder):
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))

    def go(output="run", **sections):
        preset = {
            "name": "small",
            "model": {"id": "demo"},
            "data": [{"path": str(ROOT / "presets" / "demo" / "images")}],
            "training": {"steps": 20, "batch_size": 4, "learning_rate": 1e-3},
            "memory": {"device": "cuda"},
            **sections,
        }
        path = tmp_path / f"{output}.json"
        path.write_text(json.dumps(preset))
        return run_preset(load_preset(str(path)), tmp_path / output, [recorder])

    return go


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit", "lion", "adafactor", "prodigy", "schedule_free_adamw"])
def test_lora_in_bf16_trains_and_proves(run, optimizer):
    training = {"steps": 20, "batch_size": 4, "learning_rate": 1e-3, "optimizer": {"name": optimizer}}
    result = run(training=training)
    assert result["peak_vram_gib"] > 0 and result["proof"]["relative_error"] < 0.05


@pytest.mark.parametrize("update", ["stochastic", "kahan"])
def test_full_fine_tune_in_bf16(run, update):
    training = {"steps": 20, "batch_size": 4, "learning_rate": 1e-5, "bf16_update": update}
    result = run(method={"kind": "full"}, training=training)
    assert result["proof"]["update_norm"] > 0


def test_checkpointing_saves_memory(run):
    peaks = {}
    for on in (True, False):
        result = run(output=f"checkpointing-{on}", memory={"device": "cuda", "gradient_checkpointing": on})
        peaks[on] = result["phases"]["train"]["peak_vram_gib"]
    assert peaks[True] < peaks[False]


def test_previews_and_video_memory_are_reported(run, recorder):
    run(preview={"prompts": ["a red star at the left on a white background"], "steps": 4})
    assert recorder.of("step")[-1].vram_gib > 0
    assert {event.step for event in recorder.of("sample_saved")} == {0, 20}


def test_cached_rows_are_bf16(run, tmp_path):
    run()
    shards = list((tmp_path / "cache" / "latents").rglob("*.safetensors"))
    assert shards and all(tensor.dtype == torch.bfloat16 for shard in shards for tensor in load_file(shard).values())
