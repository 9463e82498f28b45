"""The training part of a run: build the loop, resume it, step, checkpoint, preview, validate, save and prove."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from accelerate import Accelerator

from tuner import objectives
from tuner.config.load import Resolved
from tuner.data.loader import Batches
from tuner.events import Emitter, Noted
from tuner.families.base import Family, Parts, Source
from tuner.memory.placement import Placement
from tuner.rundir import RunDir
from tuner.training import checkpoints, optimizers
from tuner.training.checkpoints import Snapshot
from tuner.training.ema import Ema
from tuner.training.experts import Experts
from tuner.training.finish import Finisher
from tuner.training.loop import Loop
from tuner.training.model import Networks, place_networks, trained_components
from tuner.training.phases import PhaseLog
from tuner.training.prepare import CachedText, Dataset, LiveText, MediaRows
from tuner.training.preview import Previewer
from tuner.training.randomness import global_states, restore_global_states
from tuner.training.signals import StopRequest
from tuner.training.step import StepMath
from tuner.training.validation import Validator


@dataclass
class Session:
    """One run in this process."""

    resolved: Resolved
    family: Family
    source: Source
    placement: Placement
    folder: RunDir
    emitter: Emitter
    accelerator: Accelerator
    log: PhaseLog
    stop: StopRequest
    dataset: Dataset = field(default_factory=lambda: Dataset([], []))
    text: CachedText | LiveText = field(init=False)
    media: MediaRows = field(init=False)
    encoders: Parts = field(default_factory=dict)
    networks: Networks = field(init=False)
    loop: Loop = field(init=False)
    previewer: Previewer = field(init=False)
    validator: Validator | None = None

    @property
    def trains_text(self) -> bool:
        """Whether a text encoder learns, so that captions cannot be encoded ahead."""
        return any(name not in self.resolved.model.denoisers for name in trained_components(self.resolved))

    def train_and_finish(self) -> dict[str, Any]:
        """Everything after the caches; returns the result without its timings."""
        preset = self.resolved.preset
        with self.log.phase("place") as phase:
            self.build()
            resumed = self._resume()
            count = sum(parameter.numel() for parameter in self.networks.named_parameters().values())
            phase.summary = f"{count:,} parameters learn on {self.placement.device}"
        if self.loop.step == 0:
            self._look(0)
        with self.log.phase("train", total=preset.training.steps, unit="steps"):
            self.loop.run(preset.training.steps, self._after_step)
        if not self._saved(preset.training.steps):
            self._checkpoint()
        finisher = Finisher(
            self.resolved, self.family, self.source, self.placement, self.folder, self.log, self.emitter
        )
        with self._shown_weights():
            result = finisher.finish(self.networks, self.loop, self.dataset)
        return {**result, "resumed_from": resumed, "contact_sheet": self._sheet()}

    def build(self) -> None:
        """Place the networks and put the loop together, at step 0."""
        resolved, preset = self.resolved, self.resolved.preset
        looks = bool(preset.preview.prompts) or bool(self.dataset.validation)
        self.networks = place_networks(
            resolved, self.family, self.source, self.placement, self.encoders, every_denoiser=looks
        )
        spec_guidance = resolved.model.objective.guidance
        guidance = spec_guidance if preset.objective.guidance == "auto" else preset.objective.guidance
        objective = objectives.build(resolved.model, preset.objective)
        math = StepMath(self.family, objective, preset.objective.loss, self.placement, self.media, self.text, guidance)
        experts = Experts.of(resolved.model, list(self.networks.attachments))
        optimizer = optimizers.build(
            self.networks.groups(preset.training.learning_rate, preset.training.learning_rates), preset.training
        )
        batches = Batches(
            self.dataset.train,
            preset.training.batch_size,
            preset.training.seed,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        ema = Ema(self.networks.named_parameters(), preset.training.ema) if preset.training.ema else None
        self.loop = Loop(preset, math, batches, self.networks, experts, optimizer, ema, self.accelerator, self.emitter)
        self.previewer = Previewer(
            resolved, self.family, self.source, self.placement, self.text, self.folder, self.emitter, self.stop
        )
        self.previewer.find_earlier()
        if self.dataset.validation:
            self.validator = Validator(math, self.dataset.validation, preset.validation, experts, preset.training.seed)

    def _after_step(self, step: int) -> None:
        preset = self.resolved.preset
        last = step == preset.training.steps
        if self.stop.pending:
            self._checkpoint()
            raise self.stop.stopped(f"stopped after step {step} of {preset.training.steps}; everything is saved")
        if last or self._due(step):
            self._look(step)
        if step % preset.save.every_steps == 0 or last:
            self._checkpoint()

    def _due(self, step: int) -> bool:
        every = self.resolved.preset.preview.every_steps
        validates = self.validator is not None and step % self.resolved.preset.validation.every_steps == 0
        return validates or (every > 0 and step % every == 0)

    def _look(self, step: int) -> None:
        """Previews and validation, whichever is due at ``step``, with the weights that would be saved."""
        preset = self.resolved.preset
        ends = step in (0, preset.training.steps)
        if self.accelerator.is_main_process and (self.validator or preset.preview.prompts):
            with self._shown_weights():
                if self.validator and (ends or step % preset.validation.every_steps == 0):
                    self.emitter.emit(self.validator.measure(self.networks.denoisers, step))
                every = preset.preview.every_steps
                if (
                    preset.preview.prompts
                    and (ends or (every and step % every == 0))
                    and not self.previewer.drawn(step)
                ):
                    with self.log.phase("preview", total=len(preset.preview.prompts), unit="prompts") as phase:
                        self.previewer.draw(self.networks.denoisers, step, phase)
                        phase.summary = f"step {step}"
        self.accelerator.wait_for_everyone()
        if step == 0:
            self.stop.check()

    @contextlib.contextmanager
    def _shown_weights(self) -> Iterator[None]:
        """The weights a person gets: the moving average if there is one, dropout off."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.networks.evaluating())
            stack.enter_context(optimizers.evaluating(self.loop.optimizer))
            if self.loop.ema is not None:
                stack.enter_context(self.loop.ema.swapped())
            yield

    def _checkpoint(self) -> None:
        if not self.accelerator.is_main_process:
            return
        tensors = {name: attachment.state() for name, attachment in self.networks.attachments.items()}
        objects: dict[str, Any] = {"optimizer": self.loop.optimizer.state_dict(), "random": global_states()}
        if self.loop.ema is not None:
            objects["ema"] = self.loop.ema.state_dict()
        values = {
            "loss": self.loop.last_loss,
            "validation_baseline": self.validator.baseline if self.validator else None,
        }
        snapshot = Snapshot(self.loop.step, tensors, objects, values)
        checkpoints.save(self.folder.checkpoints, snapshot, self.resolved.preset.save.keep, self.emitter)

    def _saved(self, step: int) -> bool:
        return any(number == step for number, _ in checkpoints.listed(self.folder.checkpoints))

    def _resume(self) -> int | None:
        """Put everything where the newest whole checkpoint left it; returns its step."""
        snapshot = checkpoints.load_newest(self.folder.checkpoints, self.emitter)
        if snapshot is None:
            return None
        for name, attachment in self.networks.attachments.items():
            attachment.load_state(snapshot.tensors[name])
        self.loop.optimizer.load_state_dict(snapshot.objects["optimizer"])
        restore_global_states(snapshot.objects["random"])
        if self.loop.ema is not None:
            self.loop.ema.load_state_dict(snapshot.objects["ema"])
        if self.validator is not None:
            self.validator.baseline = snapshot.values["validation_baseline"]
        self.loop.step = snapshot.step
        self.loop.last_loss = float(snapshot.values["loss"])
        self.emitter.emit(Noted(message=f"going on from step {snapshot.step}"))
        return snapshot.step

    def _sheet(self) -> str | None:
        return str(self.previewer.sheet) if self.previewer.sheet.exists() else None
