"""Previews: samples drawn by the stock pipeline with the weights as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from tuner.config.load import Resolved
from tuner.config.schema import PreviewPrompt, PreviewSection
from tuner.data.media import write_clip
from tuner.events import Emitter, SampleSaved
from tuner.families.base import Family, Parts, Source
from tuner.memory.placement import Placement, release
from tuner.rundir import RunDir, disk_errors
from tuner.training.phases import Phase
from tuner.training.prepare import TextRows
from tuner.training.sheet import Shot, contact_sheet
from tuner.training.signals import StopRequest

SHEET_NAME = "contact-sheet.png"


def prompts_of(section: PreviewSection) -> list[PreviewPrompt]:
    """The prompts, with plain strings filled up."""
    return [PreviewPrompt(prompt=entry) if isinstance(entry, str) else entry for entry in section.prompts]


@dataclass
class Previewer:
    """Draws every prompt of the preset at one step, and keeps the contact sheet up to date."""

    resolved: Resolved
    family: Family
    source: Source
    placement: Placement
    text: TextRows
    folder: RunDir
    emitter: Emitter
    stop: StopRequest
    shots: list[Shot] = field(default_factory=list)
    _frozen: Parts = field(default_factory=dict)

    @property
    def sheet(self) -> Path:
        """Where the contact sheet is."""
        return self.folder.samples / SHEET_NAME

    def find_earlier(self) -> None:
        """Take up the pictures an interrupted run drew before."""
        prompts = prompts_of(self.resolved.preset.preview)
        for path in sorted(self.folder.samples.glob("step-*-*.png")):
            step, number = path.stem.removeprefix("step-").split("-")
            if int(number) < len(prompts):
                self.shots.append(Shot(prompts[int(number)].prompt, int(step), path))

    def drawn(self, step: int) -> bool:
        """Whether all previews of ``step`` are there."""
        prompts = prompts_of(self.resolved.preset.preview)
        return {shot.prompt for shot in self.shots if shot.step == step} >= {prompt.prompt for prompt in prompts}

    @torch.no_grad()
    def draw(self, denoisers: Mapping[str, nn.Module], step: int, phase: Phase) -> None:
        """Draw and save all prompts; ends early, keeping what is drawn, when the run was asked to stop."""
        pipeline = self._pipeline(denoisers)
        for number, prompt in enumerate(prompts_of(self.resolved.preset.preview)):
            if self.stop.pending:
                return
            output = pipeline(**self._arguments(prompt))
            path = self._store(output, f"step-{step:06d}-{number:02d}")
            self.shots = [shot for shot in self.shots if shot.path != path] + [Shot(prompt.prompt, step, path)]
            self.emitter.emit(SampleSaved(step=step, prompt=prompt.prompt, path=str(path)))
            phase.advance()
        self._frozen["vae"].to("cpu")
        release(self.placement.device)
        with disk_errors(f"cannot write {self.sheet}"):
            contact_sheet(self.shots, self.resolved.name).save(self.sheet)

    def _pipeline(self, denoisers: Mapping[str, nn.Module]) -> Any:
        if not self._frozen:
            for name in self.family.spec.of_role("vae", "scheduler"):
                self._frozen[name] = self.family.load(name, self.source, self.placement.dtype)
            if self.placement.vae_tiling:
                self._frozen["vae"].enable_tiling()
        self._frozen["vae"].to(self.placement.device)
        pipeline = self.family.pipeline({**self._frozen, **denoisers})
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _arguments(self, prompt: PreviewPrompt) -> dict[str, Any]:
        preview, spec = self.resolved.preset.preview, self.family.spec
        sampling = spec.sampling
        scale = sampling.guidance_scale if preview.guidance_scale == "auto" else preview.guidance_scale
        seed = preview.seed if prompt.seed is None else prompt.seed
        arguments: dict[str, Any] = {
            **self.family.pipeline_inputs(
                self._cond(prompt.prompt), self._cond(prompt.negative_prompt) if scale > 1 else None
            ),
            **sampling.extra,
            sampling.guidance_argument: scale,
            "num_inference_steps": sampling.steps if preview.steps == "auto" else preview.steps,
            **self.family.size_inputs(self._size(preview.width_px), self._size(preview.height_px)),
            "generator": torch.Generator().manual_seed(seed),
            "output_type": "pil",
        }
        if spec.modality == "video":
            arguments["num_frames"] = self._frames()
        if prompt.references:
            pictures = [Image.open(self.resolved.base / path).convert("RGB") for path in prompt.references]
            arguments["image"] = pictures if len(pictures) > 1 else pictures[0]
        return arguments

    def _cond(self, text: str) -> dict[str, Tensor]:
        batch = self.family.collate(self.text.rows([text]))
        device, dtype = self.placement.device, self.placement.dtype
        return {name: value.to(device, dtype if value.is_floating_point() else None) for name, value in batch.items()}

    def _size(self, given: int | str) -> int:
        if given != "auto":
            return int(given)
        trained = self.resolved.preset.data[0].resolution_px
        if isinstance(trained, list):
            trained = max(trained)
        size = self.family.spec.resolution_px if trained == "auto" else int(trained)
        step = self.family.spec.latents.divisible_px
        return max(step, size // step * step)

    def _frames(self) -> int:
        given, trained = self.resolved.preset.preview.frames, self.resolved.preset.data[0].frames
        frames = given if given != "auto" else trained if trained != "auto" else self.family.spec.frames
        temporal = self.family.spec.latents.temporal
        return (int(frames) - 1) // temporal * temporal + 1

    def _store(self, output: Any, name: str) -> Path:
        path = self.folder.samples / f"{name}.png"
        with disk_errors(f"cannot write {path}"):
            if self.family.spec.modality == "video":
                frames = output.frames[0]
                frames[len(frames) // 2].save(path)
                if len(frames) > 1:
                    write_clip(path.with_suffix(".mp4"), frames, self.family.spec.fps or 16)
            else:
                output.images[0].save(path)
        return path
