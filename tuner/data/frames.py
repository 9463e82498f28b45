"""How long a clip is trained: the frame rule of a model, and resampling to its frame rate. No torch."""

from __future__ import annotations

from tuner.catalog.spec import ModelSpec
from tuner.config.schema import DataSection


def allowed_frames(frames: int, spec: ModelSpec) -> int:
    """The largest length of the form ``temporal * k + 1`` within ``frames`` (at least 1)."""
    return (frames - 1) // spec.latents.temporal * spec.latents.temporal + 1


def wanted_frames(section: DataSection, spec: ModelSpec) -> int:
    """Frames per clip that the preset, or else the model, asks for, by the model's rule."""
    return allowed_frames(spec.frames if section.frames == "auto" else section.frames, spec)


def wanted_fps(section: DataSection, spec: ModelSpec, own_fps: float) -> float:
    """Frames per second that a clip is resampled to: the preset's, the model's, or its own."""
    return (spec.fps or own_fps) if section.fps == "auto" else section.fps


def frames_at(fps: float, frames: int, own_fps: float) -> int:
    """How many frames a clip of ``frames`` at ``own_fps`` has after resampling to ``fps``; at least 1."""
    return max(1, int(frames / own_fps * fps + 1e-3))
