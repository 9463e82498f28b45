"""One sample, and everything that can be wrong with it. Needs neither torch nor numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tuner.catalog.spec import ModelSpec
from tuner.config.schema import DataSection
from tuner.data.captions import BadCaption, caption_of
from tuner.data.frames import frames_at, wanted_fps, wanted_frames
from tuner.data.pairing import Companions
from tuner.data.probe import CLIP_SUFFIXES, IMAGE_SUFFIXES, Measured, Unreadable, measure
from tuner.data.problems import Problem

Kind = Literal["image", "clip"]

MASK_ASPECT_TOLERANCE = 0.02
"""Masks are stretched over their sample; more than this would shift them visibly."""


@dataclass(frozen=True)
class Sample:
    """One image or clip, checked. Sizes are after EXIF rotation."""

    path: Path
    kind: Kind
    width_px: int
    height_px: int
    frames: int
    """Frames in the file; 1 for images."""
    fps: float | None
    """The file's own frame rate; None for images."""
    caption: str
    """Complete, with trigger word, prefix and suffix."""
    caption_dropout: float
    """Share of steps, 0 to 1, that train it with an empty caption."""
    source: int
    """Position of its source in the preset's ``data``."""
    references: tuple[Path, ...] = ()
    reference_sizes_px: tuple[tuple[int, int], ...] = ()
    """Width and height of each reference."""
    mask: Path | None = None


def kind_of(path: Path) -> Kind | None:
    """What a file is by its ending; None for what cannot be trained."""
    suffix = path.suffix.lower()
    return "image" if suffix in IMAGE_SUFFIXES else "clip" if suffix in CLIP_SUFFIXES else None


@dataclass
class Checker:
    """Checks the samples of one source. Holds no state that a check changes, so that threads can share it."""

    index: int
    section: DataSection
    spec: ModelSpec
    folder: Path
    references: Sequence[Companions]
    masks: Companions | None

    def check(self, path: Path) -> Sample | list[Problem]:
        """The sample at ``path``, or everything that is wrong with it. Decodes its images."""
        problems: list[Problem] = []
        caption = self._caption(path, problems)
        measured = _measured(path, problems)
        pairs = [self._companion(path, companions, "reference", problems) for companions in self.references]
        mask = self._companion(path, self.masks, "mask", problems) if self.masks else None
        if measured and mask:
            problems += _mask_faults(mask, measured)
        if measured and measured.fps:
            problems += self._length_faults(path, measured.frames, measured.fps)
        if problems or not measured:
            return problems
        return Sample(
            path=path,
            kind="clip" if measured.fps else "image",
            width_px=measured.width_px,
            height_px=measured.height_px,
            frames=measured.frames,
            fps=measured.fps,
            caption=caption,
            caption_dropout=self.section.captions.dropout,
            source=self.index,
            references=tuple(pair[0] for pair in pairs if pair),
            reference_sizes_px=tuple((pair[1].width_px, pair[1].height_px) for pair in pairs if pair),
            mask=mask[0] if mask else None,
        )

    def is_short(self, sample: Sample) -> bool:
        """Whether a clip has fewer frames than asked for, once it is resampled."""
        return sample.fps is not None and self._available(sample.frames, sample.fps) < self.wanted_frames

    @property
    def wanted_frames(self) -> int:
        """Frames that a clip of this source should have."""
        return wanted_frames(self.section, self.spec)

    def _available(self, frames: int, fps: float) -> int:
        return frames_at(wanted_fps(self.section, self.spec, fps), frames, fps)

    def _caption(self, path: Path, problems: list[Problem]) -> str:
        try:
            return caption_of(path, self.section.captions)
        except BadCaption as error:
            problems.append(Problem(error.code, error.path, error.reason))
            return ""

    def _companion(
        self, path: Path, companions: Companions, what: str, problems: list[Problem]
    ) -> tuple[Path, Measured] | None:
        matches = companions.of_sample(path.relative_to(self.folder))
        if not matches:
            problems.append(Problem(f"missing-{what}", path, f"it has no {what} in {companions.folder}"))
            return None
        if len(matches) > 1:
            names = ", ".join(match.name for match in matches)
            problems.append(Problem("ambiguous", path, f"it has more than one {what} in {companions.folder}: {names}"))
            return None
        measured = _measured(matches[0], problems)
        return (matches[0], measured) if measured else None

    def _length_faults(self, path: Path, frames: int, fps: float) -> list[Problem]:
        """A clip that leaves no more than one latent frame would be trained as a still image."""
        needed = min(self.wanted_frames, self.spec.latents.temporal + 1)
        available = self._available(frames, fps)
        if available >= needed:
            return []
        rate = wanted_fps(self.section, self.spec, fps)
        message = f"it has {available} frames at {rate:g} frames per second; at least {needed} are needed"
        return [Problem("clip-too-short", path, message)]


def _measured(path: Path, problems: list[Problem]) -> Measured | None:
    try:
        return measure(path)
    except Unreadable as error:
        problems.append(Problem("unreadable", path, error.reason))
        return None


def _mask_faults(mask: tuple[Path, Measured], sample: Measured) -> list[Problem]:
    path, size = mask
    stretch = (size.width_px * sample.height_px) / (size.height_px * sample.width_px)
    if abs(stretch - 1) <= MASK_ASPECT_TOLERANCE:
        return []
    message = f"the mask is {size.width_px}x{size.height_px}, its sample {sample.width_px}x{sample.height_px}"
    return [Problem("mask-aspect", path, message)]
