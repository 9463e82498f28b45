"""Procedural, captioned drawings: the whole world of the demo base model.

A drawing shows one flat shape on a flat background. The base model learns the five `SHAPES` in
every combination of colour, place and background. `CONCEPT` is a sixth shape that the base model
never sees; the demo LoRA teaches it. Everything is a pure function of a `random.Random`, so a seed
names a data set. Needs Pillow only, so that a user interface can draw examples without torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from PIL import Image, ImageDraw

RGB = tuple[int, int, int]

SIZE = 64  # side of a drawing in pixels
OVERSAMPLE = 4  # drawn this many times larger, then box filtered: smooth edges
SHAPES = ("circle", "square", "triangle", "ring", "cross")
CONCEPT = "star"  # the shape of the demo LoRA: five points, unknown to the base model
COLOURS: dict[str, RGB] = {
    "red": (220, 40, 40),
    "green": (40, 170, 70),
    "blue": (50, 80, 220),
    "yellow": (235, 200, 40),
    "purple": (150, 60, 190),
    "orange": (240, 130, 30),
}
BACKGROUNDS: dict[str, RGB] = {
    "white": (245, 245, 245),
    "black": (20, 20, 20),
    "gray": (130, 130, 130),
    "pink": (250, 190, 205),
}
PLACES: dict[str, tuple[int, int]] = {  # centre of the shape, (x, y) in pixels
    "left": (19, 32),
    "right": (45, 32),
    "top": (32, 19),
    "bottom": (32, 45),
    "center": (32, 32),
}
RADII = (11.0, 14.5)  # smallest and largest radius in pixels
WAIST = 0.4  # inner radius of a star as a share of the outer
JITTER = 1.5  # largest offset from the place's centre in pixels, per axis

# Factors that make the shapes look equally large at one radius.
_REACH = {"circle": 0.95, "square": 0.85, "triangle": 1.2, "ring": 1.0, "cross": 1.05, "star": 1.2}


@dataclass(frozen=True)
class Scene:
    """What a drawing shows, in words of the tables above; `shape` may also be any other word."""

    shape: str
    colour: str
    place: str
    background: str

    @property
    def caption(self) -> str:
        """The sentence a drawing is trained and prompted with."""
        article = "an" if self.colour[0] in "aeiou" else "a"
        return f"{article} {self.colour} {self.shape} at the {self.place} on a {self.background} background"


def random_scene(rng: Random, shapes: tuple[str, ...] = SHAPES) -> Scene:
    """A scene with independent, uniformly drawn words; `shapes` limits the choice of shape."""
    return Scene(
        shape=rng.choice(shapes),
        colour=rng.choice(list(COLOURS)),
        place=rng.choice(list(PLACES)),
        background=rng.choice(list(BACKGROUNDS)),
    )


def draw(scene: Scene, rng: Random) -> Image.Image:
    """Draw a scene at a random size and with a slightly random centre.

    A word that names no shape is drawn as an arbitrary polygon, different every time.

    Returns:
        An RGB image of `SIZE` x `SIZE` pixels.
    """
    x, y = (v + rng.uniform(-JITTER, JITTER) for v in PLACES[scene.place])
    canvas = Canvas(BACKGROUNDS[scene.background])
    radius, colour = rng.uniform(*RADII), COLOURS[scene.colour]
    if scene.shape in _REACH:
        canvas.shape(scene.shape, (x, y), radius, colour)
    else:
        canvas.polygon(_any_polygon(rng, (x, y), radius), colour)
    return canvas.image()


def draw_variety(rng: Random) -> Image.Image:
    """Draw something uncaptioned: gradients, lines, polygons, several shapes, any colours.

    An autoencoder that sees these beside the captioned scenes also keeps shapes and colours that
    the captions do not mention, so that the base model can be taught new ones.

    Returns:
        An RGB image of `SIZE` x `SIZE` pixels.
    """
    canvas = Canvas(_any_colour(rng), _any_colour(rng) if rng.random() < 0.3 else None, rng)
    for _ in range(rng.choice((1, 1, 2, 3, 5))):
        centre = (rng.uniform(8, SIZE - 8), rng.uniform(8, SIZE - 8))
        radius = rng.uniform(4, 20)
        kind = rng.choice((*SHAPES, CONCEPT, "polygon", "polygon", "ellipse", "line"))
        if kind == "polygon":
            canvas.polygon(_any_polygon(rng, centre, radius), _any_colour(rng))
        elif kind == "ellipse":
            canvas.ellipse(centre, (radius, rng.uniform(3, 20)), _any_colour(rng))
        elif kind == "line":
            end = (rng.uniform(0, SIZE), rng.uniform(0, SIZE))
            canvas.line(centre, end, rng.uniform(1, 5), _any_colour(rng))
        else:
            turn = rng.choice((0.0, rng.uniform(0, 2 * math.pi)))
            canvas.shape(kind, centre, radius, _any_colour(rng), turn=turn)
    return canvas.image()


def scenes(seed: int, count: int, shapes: tuple[str, ...] = SHAPES) -> Iterator[Scene]:
    """`count` random scenes; the same seed gives the same scenes."""
    rng = Random(seed)
    for _ in range(count):
        yield random_scene(rng, shapes)


class Canvas:
    """An oversampled drawing surface; coordinates and lengths are pixels of the final image."""

    def __init__(self, colour: RGB, other: RGB | None = None, rng: Random | None = None) -> None:
        """Start with a flat background, or with a gradient from `colour` to `other`.

        `rng` chooses the direction of the gradient.
        """
        side = SIZE * OVERSAMPLE
        self._image = Image.new("RGB", (side, side), colour)
        if other is not None:
            ramp = Image.linear_gradient("L").resize((side, side))
            if rng is not None:
                ramp = ramp.rotate(rng.choice((0, 90, 180, 270)))
            self._image.paste(Image.new("RGB", (side, side), other), mask=ramp)
        self._draw = ImageDraw.Draw(self._image)

    def shape(
        self,
        name: str,
        centre: tuple[float, float],
        radius: float,
        colour: RGB,
        *,
        turn: float = 0.0,
        waist: float = WAIST,
    ) -> None:
        """Paint a named shape; `turn` is a clockwise rotation in radians, `waist` matters to stars."""
        reach = radius * _REACH[name]
        if name == "circle":
            self.ellipse(centre, (reach, reach), colour)
        elif name == "ring":
            self._ellipse(centre, (reach, reach), outline=colour, width=0.42 * reach)
        elif name == "cross":
            thin = 0.34 * reach
            self.polygon(_turned(_box(reach, thin), centre, turn), colour)
            self.polygon(_turned(_box(thin, reach), centre, turn), colour)
        else:
            self.polygon(_turned(_corners(name, reach, waist), centre, turn), colour)

    def polygon(self, points: list[tuple[float, float]], colour: RGB) -> None:
        """Fill a polygon."""
        self._draw.polygon([(x * OVERSAMPLE, y * OVERSAMPLE) for x, y in points], fill=colour)

    def ellipse(self, centre: tuple[float, float], radii: tuple[float, float], colour: RGB) -> None:
        """Fill an axis-parallel ellipse."""
        self._ellipse(centre, radii, fill=colour)

    def line(self, start: tuple[float, float], end: tuple[float, float], width: float, colour: RGB) -> None:
        """Draw a straight line."""
        points = [(x * OVERSAMPLE, y * OVERSAMPLE) for x, y in (start, end)]
        self._draw.line(points, fill=colour, width=round(width * OVERSAMPLE))

    def image(self) -> Image.Image:
        """The drawing as an RGB image of `SIZE` x `SIZE` pixels."""
        return self._image.reduce(OVERSAMPLE)

    def _ellipse(
        self,
        centre: tuple[float, float],
        radii: tuple[float, float],
        fill: RGB | None = None,
        outline: RGB | None = None,
        width: float = 0.0,
    ) -> None:
        (x, y), (rx, ry) = centre, radii
        box = [v * OVERSAMPLE for v in (x - rx, y - ry, x + rx, y + ry)]
        self._draw.ellipse(box, fill=fill, outline=outline, width=round(width * OVERSAMPLE))


def _corners(name: str, reach: float, waist: float) -> list[tuple[float, float]]:
    """Corners around the origin; the centre of mass is the origin, so that a place is a place."""
    if name == "square":
        return _box(reach, reach)
    if name == "triangle":
        return [_polar(reach, 2 * math.pi * i / 3) for i in range(3)]
    if name == "star":
        return [_polar(reach * (1.0, waist)[i % 2], math.pi * i / 5) for i in range(10)]
    raise ValueError(f"unknown shape: {name}")


def _box(half_width: float, half_height: float) -> list[tuple[float, float]]:
    w, h = half_width, half_height
    return [(-w, -h), (w, -h), (w, h), (-w, h)]


def _polar(radius: float, angle: float) -> tuple[float, float]:
    """A point at `angle` radians clockwise from the top."""
    return radius * math.sin(angle), -radius * math.cos(angle)


def _turned(points: list[tuple[float, float]], centre: tuple[float, float], turn: float) -> list[tuple[float, float]]:
    """Points around the origin, rotated and moved to `centre`."""
    c, s = math.cos(turn), math.sin(turn)
    return [(centre[0] + c * x - s * y, centre[1] + s * x + c * y) for x, y in points]


def _any_colour(rng: Random) -> RGB:
    """A uniform colour, or half of the time one near the colours that captions name."""
    if rng.random() < 0.5:
        near = rng.choice([*COLOURS.values(), *BACKGROUNDS.values()])
        r, g, b = (min(255, max(0, v + rng.randint(-20, 20))) for v in near)
        return r, g, b
    return rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255)


def _any_polygon(rng: Random, centre: tuple[float, float], radius: float) -> list[tuple[float, float]]:
    """A polygon around `centre` with four to twelve corners at random distances."""
    corners, start = rng.randint(4, 12), rng.random()
    steps = [start + i + rng.uniform(-0.3, 0.3) for i in range(corners)]
    points = [_polar(radius * rng.uniform(0.35, 1.3), 2 * math.pi * i / corners) for i in steps]
    return _turned(points, centre, 0.0)
