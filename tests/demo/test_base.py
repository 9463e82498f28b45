"""The shipped base model loads with the stock pipeline and draws what it is asked for."""

from __future__ import annotations

from pathlib import Path

import diffusers
import pytest
import torch

from presets.demo.drawings import CONCEPT, SHAPES, scenes
from presets.demo.judge import accuracies
from tests.demo.sampling import drawn

BASE = Path(__file__).parents[2] / "presets" / "demo" / "base"
LIMIT = 16 * 2**20  # bytes
PROMPTS = 40


@pytest.fixture(scope="module")
def pipe() -> diffusers.FluxPipeline:
    loaded = diffusers.FluxPipeline.from_pretrained(BASE, dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_folder_is_small_and_complete() -> None:
    files = [path for path in BASE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LIMIT
    assert (BASE / "model_index.json").is_file()
    assert not [path for path in files if path.suffix in {".bin", ".pt", ".pkl"}]


def test_draws_what_it_is_asked_for(pipe: diffusers.FluxPipeline) -> None:
    wanted = list(scenes(3000, PROMPTS))
    found = accuracies(drawn(pipe, [scene.caption for scene in wanted], seed=0), wanted)
    assert found["shape"] >= 0.8, found
    assert found["colour"] >= 0.85, found
    assert found["place"] >= 0.9, found
    assert found["background"] >= 0.9, found


def test_does_not_know_the_concept(pipe: diffusers.FluxPipeline) -> None:
    wanted = list(scenes(3001, 16, (CONCEPT,)))
    found = accuracies(drawn(pipe, [scene.caption for scene in wanted], seed=0), wanted)
    assert found["shape"] <= 0.2, found
    assert found["place"] >= 0.7, found  # it knows the rest of the sentence


def test_any_text_is_tokenised(pipe: diffusers.FluxPipeline) -> None:
    ids = pipe.tokenizer_2("a red sks Zebra! 猫").input_ids
    assert len(ids) > 10
    known = pipe.tokenizer_2([*SHAPES, CONCEPT]).input_ids
    assert all(len(tokens) == 2 for tokens in known)  # the word and the end
    assert all(len(tokens) == 3 for tokens in pipe.tokenizer([*SHAPES, CONCEPT]).input_ids)
