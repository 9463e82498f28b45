"""Draw the training images of the demo LoRA: stars, which the demo base cannot draw.

    python -m presets.demo.make_images

writes `presets/demo/images/star-01.png` and `star-01.txt` (the caption) and so on, with seed 0. It
takes a second. Every colour, place and background occurs; `HELD_OUT` does not, so that a LoRA that
draws those scenes has learned the shape and not the images.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from random import Random

from presets.demo.drawings import BACKGROUNDS, COLOURS, CONCEPT, PLACES, Scene, draw

COUNT = 15

# Never drawn: neither these pairs of colour and background nor these pairs of colour and place.
HELD_OUT = (
    ("red", "white"),
    ("blue", "gray"),
    ("yellow", "black"),
    ("purple", "pink"),
    ("red", "left"),
    ("green", "center"),
    ("orange", "top"),
)


def concept_scenes(seed: int) -> list[Scene]:
    """`COUNT` scenes with stars, none of them held out.

    Places are dealt evenly, colours and backgrounds nearly so; no two scenes are the same.
    """
    rng = Random(seed)
    while True:
        dealt = [_dealt(list(words), rng) for words in (COLOURS, PLACES, BACKGROUNDS)]
        found = [Scene(CONCEPT, *words) for words in zip(*dealt, strict=True)]
        if len(set(found)) == COUNT and not any(map(held_out, found)):
            return found


def held_out(scene: Scene) -> bool:
    """Whether the training images leave this scene out on purpose."""
    pairs = {(scene.colour, scene.background), (scene.colour, scene.place)}
    return not pairs.isdisjoint(HELD_OUT)


def write_images(folder: Path, seed: int) -> None:
    """Write the images and their captions into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = Random(seed)
    for number, scene in enumerate(concept_scenes(seed), 1):
        stem = folder / f"{CONCEPT}-{number:02d}"
        draw(scene, rng).save(stem.with_suffix(".png"), optimize=True)
        stem.with_suffix(".txt").write_text(scene.caption + "\n", encoding="utf-8")


def _dealt(words: list[str], rng: Random) -> list[str]:
    """`COUNT` words in random order, each as often as the others or once more."""
    rng.shuffle(words)
    dealt = (words * COUNT)[:COUNT]
    rng.shuffle(dealt)
    return dealt


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Draw the training images of the demo LoRA.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write_images(options.out, options.seed)


if __name__ == "__main__":
    main()
