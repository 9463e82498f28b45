"""Finds and checks every sample before anything heavy is loaded. Needs neither torch nor numpy.

All faults of all files are reported at once: a fault found after an hour of encoding is an hour lost.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tuner.catalog.spec import ModelSpec
from tuner.config.schema import DataSection, ValidationSection
from tuner.data.holdout import held_out
from tuner.data.pairing import Companions, walk
from tuner.data.probe import FOREIGN_SUFFIXES
from tuner.data.problems import Problem, error_of
from tuner.data.samples import Checker, Kind, Sample, kind_of

__all__ = ["Sample", "ScanResult", "scan"]

TRAINABLE: dict[str, tuple[Kind, ...]] = {"image": ("image",), "video": ("image", "clip"), "audio": ()}
"""Kinds of files by what a model makes; an image is a clip of one frame."""

THREADS = 16


@dataclass(frozen=True)
class ScanResult:
    """What there is to train on and to validate on, in a stable order."""

    train: list[Sample]
    validation: list[Sample]
    warnings: list[str]


@dataclass(frozen=True)
class _Source:
    """One source of the preset and the folders it names."""

    index: int
    section: DataSection
    spec: ModelSpec
    folder: Path
    references: tuple[Path, ...]
    masks: Path | None

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Kinds of files to take."""
        chosen: dict[str, tuple[Kind, ...]] = {"images": ("image",), "clips": ("clip",)}
        return chosen.get(self.section.kind, TRAINABLE[self.spec.modality])

    @property
    def companion_folders(self) -> tuple[Path, ...]:
        """Folders of files that go along with the samples and are none themselves."""
        return self.references if self.masks is None else (*self.references, self.masks)


@dataclass
class _Found:
    """What the scan has found so far."""

    samples: list[Sample] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def scan(
    sources: Sequence[DataSection], base: Path, spec: ModelSpec, validation: ValidationSection, seed: int
) -> ScanResult:
    """Find and check the samples of all ``sources``; relative paths start at ``base``.

    Every image is decoded. A file that a source with the role ``validation`` holds is never trained, even if
    another source holds it too. Raises ``DatasetError`` that names everything that is wrong.
    """
    found = _Found()
    places = [_located(index, section, base, spec) for index, section in enumerate(sources)]
    for place in places:
        _scan_source(place, found)
    train, apart = _by_role(found, sources)
    if found.problems:
        raise error_of(found.problems)
    names = [sample.path.relative_to(places[sample.source].folder).as_posix() for sample in train]
    chosen = held_out(names, validation.share, seed)
    if validation.share > 0 and not any(chosen):
        found.warnings.append("validation.share holds nothing out: there is only one sample to train")
    kept = [sample for sample, out in zip(train, chosen, strict=True) if not out]
    more = [sample for sample, out in zip(train, chosen, strict=True) if out]
    return ScanResult(kept, apart + more, found.warnings)


def _located(index: int, section: DataSection, base: Path, spec: ModelSpec) -> _Source:
    def absolute(name: str) -> Path:
        return Path(os.path.abspath(base / Path(name).expanduser()))

    references = tuple(map(absolute, section.references))
    masks = absolute(section.masks) if section.masks else None
    return _Source(index, section, spec, absolute(section.path), references, masks)


def _scan_source(source: _Source, found: _Found) -> None:
    faults = list(_setting_faults(source))
    if faults:
        found.problems += faults
        return
    references = [Companions.of(folder) for folder in source.references]
    masks = Companions.of(source.masks) if source.masks else None
    empty = [companions for companions in [*references, masks] if companions and not companions.by_stem]
    files = _files(source, found)
    if empty:
        # One fault for the folder says more than one for each sample.
        found.problems += [Problem("empty-folder", folder.folder, "there are no images in it") for folder in empty]
        return
    checker = Checker(source.index, source.section, source.spec, source.folder, references, masks)
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:  # decoding happens outside Python's lock
        checked = list(pool.map(checker.check, files))
    samples = [result for result in checked if isinstance(result, Sample)]
    found.samples += samples
    found.problems += [problem for result in checked if not isinstance(result, Sample) for problem in result]
    short = sum(map(checker.is_short, samples))
    if short:
        wanted = checker.wanted_frames
        found.warnings.append(f"{source.folder}: clips with fewer than {wanted} frames, trained as they are: {short}")


def _setting_faults(source: _Source) -> Iterator[Problem]:
    spec, given = source.spec, len(source.references)
    if not set(source.kinds) <= set(TRAINABLE[spec.modality]):
        yield Problem("kind", source.folder, f"data.kind is {source.section.kind!r}, which {spec.id} does not train")
    if 0 <= spec.references < given:
        message = f"data.references has {given} folders; {spec.id} takes {spec.references or 'none'}"
        yield Problem("too-many-references", source.folder, message)
    for folder in dict.fromkeys([source.folder, *source.companion_folders]):
        if not folder.is_dir():
            yield Problem("missing-folder", folder, "not a folder" if folder.exists() else "there is no such folder")


def _files(source: _Source, found: _Found) -> list[Path]:
    """Every file to train, sorted. Other media are named in a warning: what is left out is never left out silently."""
    files: list[Path] = []
    left_out: Counter[str] = Counter()
    for path in walk(source.folder, apart=source.companion_folders):
        kind, suffix = kind_of(path), path.suffix.lower()
        if kind in source.kinds:
            files.append(path)
        elif suffix in FOREIGN_SUFFIXES:
            left_out[f"{suffix} files, which cannot be read"] += 1
        elif kind and source.section.kind == "auto":
            left_out[f"{kind}s, which {source.spec.id} does not train"] += 1
    others = ", ".join(f"{count} {what}" for what, count in sorted(left_out.items()))
    if not files:
        names = " or ".join(f"{kind}s" for kind in source.kinds) or "samples"
        but = f", but {others}" if others else ""
        found.problems.append(Problem("empty-folder", source.folder, f"there are no {names} in it{but}"))
    elif others:
        found.warnings.append(f"{source.folder}: left out {others}")
    return files


def _by_role(found: _Found, sources: Sequence[DataSection]) -> tuple[list[Sample], list[Sample]]:
    """Samples to train and samples to validate on, no file in both."""
    validation = [sample for sample in found.samples if sources[sample.source].role == "validation"]
    held = {os.path.realpath(sample.path) for sample in validation}
    candidates = [sample for sample in found.samples if sources[sample.source].role == "train"]
    train = [sample for sample in candidates if os.path.realpath(sample.path) not in held]
    overlap = len(candidates) - len(train)
    if overlap and not train:
        message = "every sample to train is in a validation folder too"
        found.problems.append(Problem("nothing-to-train", candidates[0].path.parent, message))
    elif overlap:
        found.warnings.append(f"{overlap} files are in a validation folder too, and are not trained")
    return train, validation
