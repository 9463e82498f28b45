"""Gives every sample the size it is trained at. Needs neither torch nor numpy.

A sample's size depends on the sample and the preset alone: adding a file changes nothing for the others, and
no sample is ever dropped, however few share its size.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from tuner.catalog.spec import ModelSpec
from tuner.config.schema import DataSection
from tuner.data.frames import allowed_frames, frames_at, wanted_fps, wanted_frames
from tuner.data.samples import Sample

MAX_ASPECT = 4.0
"""Longer samples are cropped to this ratio of the longer to the shorter side."""

SIZES_PER_SIDE = 16
"""Sizes are at least this fraction of the resolution apart, so that samples of about the same shape share a batch."""


@dataclass(frozen=True)
class Crop:
    """What is cut out of a file: resize to the scaled size, cut the window, take the frames."""

    scaled_width_px: int
    scaled_height_px: int
    left_px: int
    top_px: int
    width_px: int
    height_px: int
    frames: int = 1
    fps: float | None = None
    """Frames per second to resample to; None for images."""
    start_s: float = 0.0
    """Where the frames begin; the middle of a clip is taken."""


@dataclass(frozen=True)
class Item:
    """A sample at one size: what a batch consists of."""

    sample: Sample
    crop: Crop
    reference_crops: tuple[Crop, ...] = ()
    repeats: int = 1
    """How often it appears in an epoch."""

    @property
    def bucket(self) -> Hashable:
        """Items with equal buckets fit into one batch."""
        references = tuple((crop.width_px, crop.height_px) for crop in self.reference_crops)
        has_mask = self.sample.mask is not None
        return self.crop.width_px, self.crop.height_px, self.crop.frames, references, has_mask


class ReferenceSize(Protocol):
    """Decides the width and height in pixels that a reference of the given size is resized to."""

    def __call__(self, width_px: int, height_px: int, sample: Sample, crop: Crop) -> tuple[int, int]:
        """``crop`` is how the reference's sample is cut."""
        ...


def assign(
    samples: Sequence[Sample],
    sources: Sequence[DataSection],
    spec: ModelSpec,
    reference_size: ReferenceSize | None = None,
) -> list[Item]:
    """One item per sample and resolution, in order. References are resized as their sample unless told otherwise."""
    return [
        _item(sample, sources[sample.source], spec, resolution, reference_size)
        for sample in samples
        for resolution in resolutions(sources[sample.source], spec)
    ]


def resolutions(section: DataSection, spec: ModelSpec) -> list[int]:
    """The resolutions in pixels that a source is trained at, each once."""
    given = spec.resolution_px if section.resolution_px == "auto" else section.resolution_px
    return list(dict.fromkeys(given if isinstance(given, list) else [given]))


@functools.lru_cache(maxsize=64)
def sizes(resolution_px: int, divisible_px: int) -> tuple[tuple[int, int], ...]:
    """Widths and heights near the area ``resolution_px`` ** 2, all multiples of ``divisible_px``, the square first.

    None has a larger area than the square, which is therefore the most expensive; the ratio of the sides is at
    most ``MAX_ASPECT``.
    """
    square = max(divisible_px, resolution_px // divisible_px * divisible_px)
    step = math.ceil(square / SIZES_PER_SIDE / divisible_px) * divisible_px
    found = [(square, square)]
    for longer in range(square + step, round(square * MAX_ASPECT), step):
        shorter = square * square // longer // divisible_px * divisible_px
        if shorter == 0 or longer / shorter > MAX_ASPECT:
            break
        found += [(longer, shorter), (shorter, longer)]
    return tuple(found)


def nearest_size(width_px: int, height_px: int, resolution_px: int, divisible_px: int) -> tuple[int, int]:
    """The size whose aspect ratio is nearest, measured on a logarithmic scale; the larger of two that are equal."""
    aspect = math.log(width_px / height_px)

    def distance(size: tuple[int, int]) -> tuple[float, int]:
        return round(abs(math.log(size[0] / size[1]) - aspect), 9), -size[0] * size[1]

    return min(sizes(resolution_px, divisible_px), key=distance)


def cover(width_px: int, height_px: int, target_width_px: int, target_height_px: int) -> Crop:
    """Resize until the target is covered, then cut its size out of the middle."""
    scale = max(target_width_px / width_px, target_height_px / height_px)
    scaled_width = max(target_width_px, round(width_px * scale))
    scaled_height = max(target_height_px, round(height_px * scale))
    return Crop(
        scaled_width_px=scaled_width,
        scaled_height_px=scaled_height,
        left_px=(scaled_width - target_width_px) // 2,
        top_px=(scaled_height - target_height_px) // 2,
        width_px=target_width_px,
        height_px=target_height_px,
    )


def _item(
    sample: Sample, section: DataSection, spec: ModelSpec, resolution_px: int, reference_size: ReferenceSize | None
) -> Item:
    divisible = spec.latents.divisible_px
    shape = (sample.width_px, sample.height_px) if section.bucketing else (1, 1)
    size = nearest_size(*shape, resolution_px, divisible)
    crop = _timed(cover(sample.width_px, sample.height_px, *size), sample, section, spec)
    references = []
    for reference in sample.reference_sizes_px:
        reference_target = reference_size(*reference, sample, crop) if reference_size else size
        references.append(cover(*reference, *reference_target))
    return Item(sample, crop, tuple(references), section.repeats)


def _timed(crop: Crop, sample: Sample, section: DataSection, spec: ModelSpec) -> Crop:
    """``crop`` with the longest stretch of the clip that the model's frame rule and the preset allow."""
    if sample.fps is None:
        return crop
    fps = wanted_fps(section, spec, sample.fps)
    available = frames_at(fps, sample.frames, sample.fps)
    frames = allowed_frames(min(available, wanted_frames(section, spec)), spec)
    spare_s = sample.frames / sample.fps - frames / fps
    return replace(crop, frames=frames, fps=fps, start_s=round(max(0.0, spare_s / 2), 6))
