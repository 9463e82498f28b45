"""Analytic measurement of a drawing: which shape, colour, place and background does it show?

No model is involved, so the numbers mean the same for true drawings, reconstructions and samples.
Every field is answered, however bad the image is; `Verdict.fit` tells how much it looks like the
shape that was named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from presets.demo.drawings import BACKGROUNDS, COLOURS, CONCEPT, PLACES, SHAPES, SIZE, WAIST, Canvas, Scene

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

FIELDS = ("shape", "colour", "place", "background")
# A star with blunt notches is still a star to a person; without the second one it would be a circle.
_TEMPLATES = (*((name, WAIST) for name in (*SHAPES, CONCEPT)), (CONCEPT, 0.55))


@dataclass(frozen=True)
class Verdict:
    """What an image shows.

    Attributes:
        scene: the nearest words for shape, colour, place and background.
        fit: overlap (intersection over union) of the object and the named shape, 0 to 1;
            true drawings reach 0.9 and more.
        colour_error: largest channel difference to the named colour, 0 to 255.
        background_error: largest channel difference to the named background, 0 to 255.
    """

    scene: Scene
    fit: float
    colour_error: float
    background_error: float


def judge(image: Image.Image) -> Verdict:
    """Measure an RGB image of `SIZE` x `SIZE` pixels."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float64)
    if pixels.shape != (SIZE, SIZE, 3):
        raise ValueError(f"expected {SIZE} x {SIZE} pixels, got {image.width} x {image.height}")
    ground = _border_colour(pixels)
    mask, paint = _object(pixels, ground)
    background, background_error = _nearest(ground, BACKGROUNDS)
    colour, colour_error = _nearest(paint, COLOURS)
    centre = _centroid(mask)
    place = min(PLACES, key=lambda p: float(np.hypot(*(centre - np.array(PLACES[p])))))
    shape, fit = _shape(mask, centre)
    return Verdict(Scene(shape, colour, place, background), fit, colour_error, background_error)


def accuracies(images: Sequence[Image.Image], wanted: Sequence[Scene]) -> dict[str, float]:
    """Share of images, 0 to 1, that show what was asked for, per field of `FIELDS`."""
    found = [judge(image).scene for image in images]
    pairs = list(zip(found, wanted, strict=True))
    return {field: sum(getattr(f, field) == getattr(w, field) for f, w in pairs) / len(pairs) for field in FIELDS}


def _border_colour(pixels: Floats) -> Floats:
    """Median colour of the outermost two pixels on every side; objects do not reach them."""
    rim = np.ones(pixels.shape[:2], dtype=bool)
    rim[2:-2, 2:-2] = False
    return np.asarray(np.median(pixels[rim], axis=0))


def _object(pixels: Floats, ground: Floats) -> tuple[Mask, Floats]:
    """Object mask (SIZE, SIZE) and the object's colour (3,) in 0 to 255.

    The first mask is rough; the second cuts half way between the two colours, so that soft edges
    count to the side they belong to whatever the contrast is.
    """
    offset = pixels - ground
    distance = np.abs(offset).max(axis=-1)
    rough = distance >= max(1.0, 0.7 * float(np.percentile(distance, 97)))
    paint = np.median(pixels[rough], axis=0) if rough.any() else ground
    step = paint - ground
    share = offset @ step / max(1e-9, float(step @ step))
    mask = share > 0.5
    if not mask.any():
        mask = np.ones_like(mask)
    return mask, paint


def _nearest(colour: Floats, palette: dict[str, tuple[int, int, int]]) -> tuple[str, float]:
    """Name of the nearest palette entry and the largest channel difference to it."""
    name = min(palette, key=lambda k: float(np.square(colour - np.array(palette[k])).sum()))
    return name, float(np.abs(colour - np.array(palette[name])).max())


def _centroid(mask: Mask) -> Floats:
    """Centre of mass (x, y) in pixels; the centre of the first pixel is at 0.5."""
    y, x = np.nonzero(mask)
    return np.array([x.mean() + 0.5, y.mean() + 0.5])


def _shape(mask: Mask, centre: Floats) -> tuple[str, float]:
    """The shape, `CONCEPT` included, that overlaps best at the mask's own centre and area."""
    best, best_fit = "", -1.0
    for name, waist in _TEMPLATES:
        radius = float(np.sqrt(mask.sum() / _unit_area(name, waist)))
        template = _render(name, (float(centre[0]), float(centre[1])), radius, waist)
        fit = float((mask & template).sum() / max(1, (mask | template).sum()))
        if fit > best_fit:
            best, best_fit = name, fit
    return best, best_fit


@cache
def _unit_area(name: str, waist: float) -> float:
    """Area of a shape in pixels at radius 1, measured at radius 20."""
    return float(_render(name, (SIZE / 2, SIZE / 2), 20.0, waist).sum()) / 400.0


def _render(name: str, centre: tuple[float, float], radius: float, waist: float) -> Mask:
    """Mask (SIZE, SIZE) of a shape; parts outside of the image are cut off."""
    canvas = Canvas((0, 0, 0))
    canvas.shape(name, centre, radius, (255, 255, 255), waist=waist)
    return np.asarray(canvas.image())[..., 0] > 127
