"""The demo LoRA, trained by the product from the shipped preset: it learns the star and keeps what the base knows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from presets.demo.drawings import CONCEPT, Scene, scenes
from presets.demo.judge import accuracies
from presets.demo.make_images import held_out
from tests.demo.sampling import drawn
from tuner.config.load import load_preset
from tuner.training.run import run_preset

ROOT = Path(__file__).resolve().parents[2]
COUNT = 32


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNER_CACHE", str(folder / "cache"))
        preset = load_preset(str(ROOT / "presets" / "demo.json"), ["preview.prompts=[]"])
        return Path(run_preset(preset, folder / "run", [])["lora"])


@pytest.fixture(scope="module")
def pipeline():
    from diffusers import FluxPipeline

    pipe = FluxPipeline.from_pretrained(ROOT / "presets" / "demo" / "base", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def judged(pipe, wanted: list[Scene]) -> dict[str, float]:
    """The judge's accuracies on one picture per scene."""
    return accuracies(drawn(pipe, [scene.caption for scene in wanted], seed=1), wanted)


def test_it_learns_the_star_and_keeps_the_rest(pipeline, lora):
    stars = list(scenes(11, COUNT, (CONCEPT,)))
    assert any(held_out(scene) for scene in stars), "some scenes were never trained"
    known = list(scenes(12, COUNT))
    before = judged(pipeline, stars)
    assert before["shape"] <= 0.1
    pipeline.load_lora_weights(lora)
    learned, kept = judged(pipeline, stars), judged(pipeline, known)
    # Chance is 1/6 for the shape, 1/6 for the colour, 1/4 for the background and 1/5 for the place.
    assert learned["shape"] >= 0.75, learned
    assert kept["shape"] >= 0.75, kept
    for field in ("colour", "background", "place"):
        assert learned[field] >= 0.9 and kept[field] >= 0.9, (learned, kept)
