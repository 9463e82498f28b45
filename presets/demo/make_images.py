"""Draw the training images of the demo LoRA: stars, which the demo base cannot draw.

    python -m presets.demo.make_images

writes `presets/demo/images/star-01.png` and `star-01.txt` (the caption) and so on, with seed 0. It
takes a second. Every colour, place and background occurs; `HELD_OUT` does not, so that a LoRA that
draws those scenes has learned the shape and not the images.

It also writes `presets/demo/known`: shapes the base draws already. A LoRA that sees only stars
makes a star of everything; a few known shapes in between keep the word star to the stars.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from random import Random

from presets.demo.drawings import BACKGROUNDS, COLOURS, CONCEPT, PLACES, SHAPES, Scene, draw

# Pairs of colour and background, and of colour and place, that are never drawn.
HELD_OUT = (
    ("red", "white"),
    ("red", "left"),
    ("green", "center"),
    ("orange", "top"),
)


def concept_scenes(seed: int) -> list[Scene]:
    """One star in every colour on every background, except for what is held out: 23 scenes.

    Places are dealt evenly, so that each pair is seen in one of five places. With fewer pairs a
    LoRA draws stars in those pairs only.
    """
    rng = Random(seed)
    pairs = [(c, b) for c in COLOURS for b in BACKGROUNDS if (c, b) not in HELD_OUT]
    while True:
        places = _dealt(list(PLACES), len(pairs), rng)
        found = [Scene(CONCEPT, c, p, b) for (c, b), p in zip(pairs, places, strict=True)]
        if not any(map(held_out, found)):
            return found


def known_scenes(seed: int) -> list[Scene]:
    """Every shape of the base once in every colour, places and backgrounds dealt evenly."""
    rng = Random(seed)
    pairs = [(shape, colour) for shape in SHAPES for colour in COLOURS]
    places, backgrounds = (_dealt(list(words), len(pairs), rng) for words in (PLACES, BACKGROUNDS))
    return [Scene(*words) for words in zip(*zip(*pairs, strict=True), places, backgrounds, strict=True)]


def held_out(scene: Scene) -> bool:
    """Whether the training images leave this scene out on purpose."""
    pairs = {(scene.colour, scene.background), (scene.colour, scene.place)}
    return not pairs.isdisjoint(HELD_OUT)


def write_images(folder: Path, scenes: list[Scene], seed: int) -> None:
    """Write drawings of `scenes` and their captions into `folder`, which must not exist."""
    folder.mkdir(parents=True)
    rng = Random(seed)
    for number, scene in enumerate(scenes, 1):
        stem = folder / f"{scene.shape}-{number:02d}"
        draw(scene, rng).save(stem.with_suffix(".png"), optimize=True)
        stem.with_suffix(".txt").write_text(scene.caption + "\n", encoding="utf-8")


def _dealt(words: list[str], count: int, rng: Random) -> list[str]:
    """`count` words in random order, each as often as the others or once more."""
    rng.shuffle(words)
    dealt = (words * count)[:count]
    rng.shuffle(dealt)
    return dealt


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Draw the training images of the demo LoRA.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write_images(options.out / "images", concept_scenes(options.seed), options.seed)
    write_images(options.out / "known", known_scenes(options.seed), options.seed)


if __name__ == "__main__":
    main()
