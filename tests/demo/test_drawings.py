"""The drawings are deterministic and the judge reads them without a mistake."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from presets.demo.drawings import (
    BACKGROUNDS,
    COLOURS,
    CONCEPT,
    PLACES,
    SHAPES,
    Scene,
    draw,
    draw_variety,
    random_scene,
    scenes,
)
from presets.demo.judge import FIELDS, accuracies, judge
from presets.demo.make_images import concept_scenes, held_out, known_scenes, write_images

IMAGES = Path(__file__).parents[2] / "presets" / "demo" / "images"


def test_same_seed_same_drawing() -> None:
    for kind in (draw_variety, lambda rng: draw(random_scene(rng), rng)):
        first, second = (np.asarray(kind(Random(3))) for _ in range(2))
        assert first.shape == (64, 64, 3)
        assert (first == second).all()


def test_caption() -> None:
    assert Scene("ring", "red", "top", "pink").caption == "a red ring at the top on a pink background"
    assert Scene("star", "orange", "left", "gray").caption.startswith("an orange star at the left")


def test_captioned_scenes_have_no_stars() -> None:
    assert {scene.shape for scene in scenes(0, 500)} == set(SHAPES)


@pytest.mark.parametrize("shape", [*SHAPES, CONCEPT])
def test_judge_reads_true_drawings(shape: str) -> None:
    rng = Random(1)
    wanted = [
        Scene(shape, colour, place, background) for colour in COLOURS for place in PLACES for background in BACKGROUNDS
    ]
    drawings = [draw(scene, rng) for scene in wanted]
    assert accuracies(drawings, wanted) == dict.fromkeys(FIELDS, 1.0)
    verdicts = [judge(drawing) for drawing in drawings]
    assert min(v.fit for v in verdicts) > 0.8
    assert max(v.colour_error for v in verdicts) < 5


def test_judge_survives_noise_and_a_blank_image() -> None:
    rng = np.random.default_rng(0)
    scene = Scene("star", "blue", "right", "white")
    noise = rng.normal(0, 12, (64, 64, 3))
    noisy = np.clip(np.asarray(draw(scene, Random(0))) + noise, 0, 255).astype(np.uint8)
    assert judge(Image.fromarray(noisy)).scene == scene
    assert judge(Image.new("RGB", (64, 64), (245, 245, 245))).scene.background == "white"


def test_judge_wants_its_own_size() -> None:
    with pytest.raises(ValueError, match="64 x 64"):
        judge(Image.new("RGB", (32, 64)))


def test_shipped_images_are_stars_as_captioned(tmp_path: Path) -> None:
    pictures = sorted(IMAGES.glob("*.png"))
    assert len(pictures) == 23
    wanted = concept_scenes(0)
    assert [p.with_suffix(".txt").read_text().strip() for p in pictures] == [scene.caption for scene in wanted]
    assert accuracies([Image.open(p) for p in pictures], wanted) == dict.fromkeys(FIELDS, 1.0)
    assert not any(held_out(scene) for scene in wanted)
    for field, words in (("colour", COLOURS), ("place", PLACES), ("background", BACKGROUNDS)):
        assert {getattr(scene, field) for scene in wanted} == set(words)
    write_images(tmp_path / "images", wanted, 0)
    assert all((tmp_path / "images" / p.name).read_bytes() == p.read_bytes() for p in pictures)


def test_shipped_known_shapes_are_as_captioned() -> None:
    captions = {scene.caption: scene for scene in known_scenes(0)}
    pictures = sorted(IMAGES.with_name("known").glob("*.png"))
    assert len(pictures) == len(captions) == 30
    wanted = [captions[p.with_suffix(".txt").read_text().strip()] for p in pictures]
    assert accuracies([Image.open(p) for p in pictures], wanted) == dict.fromkeys(FIELDS, 1.0)
