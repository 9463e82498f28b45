"""The training loop: the same for every model and method.

Each optimizer step is a pure function of the weights, the optimizer's state and its own number: batches,
noise and levels are derived from (seed, step). That is what makes a resumed run bit-exact.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor

from tuner.config.schema import Preset
from tuner.data.buckets import Item
from tuner.data.loader import Batches
from tuner.errors import TrainingError
from tuner.events import Emitter, StepDone
from tuner.objectives.draws import stratified, uniform
from tuner.training import optimizers, schedules
from tuner.training.ema import Ema
from tuner.training.experts import Experts
from tuner.training.model import Networks
from tuner.training.optimizers import Optimizer
from tuner.training.randomness import generator, noise_like
from tuner.training.step import Batch, StepMath, token_count

ETA_WINDOW_STEPS = 20


@dataclass
class Loop:
    """One run's training state and how it advances by a step."""

    preset: Preset
    math: StepMath
    batches: Batches
    networks: Networks
    experts: Experts
    optimizer: Optimizer
    ema: Ema | None
    accelerator: Accelerator
    emitter: Emitter
    step: int = 0
    last_loss: float = float("nan")
    _recent_s: list[float] = field(default_factory=list)

    def run(self, until: int, after_step: Callable[[int], None]) -> None:
        """Train up to and including step ``until``; ``after_step`` may raise to end it early."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        while self.step < until:
            started = time.perf_counter()
            loss, grad_norm = self._step(self.step + 1, parameters)
            self.step += 1
            self.last_loss = loss
            self._report(loss, grad_norm, time.perf_counter() - started)
            after_step(self.step)

    def _step(self, step: int, parameters: list[Tensor]) -> tuple[float, float]:
        training = self.preset.training
        micro_steps = range((step - 1) * training.gradient_accumulation, step * training.gradient_accumulation)
        planned = [self.batches.batch(micro) for micro in micro_steps]
        count = sum(len(items) for items in planned)
        draws = generator(training.seed, "levels", step)
        expert = self.experts.choose(self.math.objective, token_count(planned[0][0], self.math.family), draws)
        shares = self._shares(draws)
        denoiser = self.networks.denoisers[expert.name]
        seen: list[tuple[list[Item], Tensor, Tensor]] = []
        for number, (micro, items) in enumerate(zip(micro_steps, planned, strict=True)):
            batch = self.math.batch(items, self._captions(items, micro))
            t = self.math.objective.levels(shares[number][: len(items)], batch.tokens, expert.low, expert.high)
            loss = self.math.per_sample(denoiser, batch, t, self._noise(batch, micro))
            seen.append((items, t, loss.detach()))
            self.accelerator.backward(loss.sum() / count)
            del loss, batch
        mean = float(torch.cat([loss for *_, loss in seen]).mean())
        if mean != mean or mean in (float("inf"), float("-inf")):
            self._fail(step, seen)
        grad_norm = self._update(step, parameters)
        return mean, grad_norm

    def _update(self, step: int, parameters: list[Tensor]) -> float:
        training = self.preset.training
        if self.accelerator.num_processes > 1:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad = self.accelerator.reduce(parameter.grad, reduction="mean")
        limit = training.max_grad_norm or float("inf")
        grad_norm = float(torch.nn.utils.clip_grad_norm_(parameters, limit))
        if grad_norm != grad_norm or grad_norm == float("inf"):
            raise TrainingError(
                f"the gradients of step {step} are not finite (norm {grad_norm})",
                hint="lower training.learning_rate; the last checkpoint is kept and the run can be resumed",
            )
        optimizers.set_factor(self.optimizer, schedules.factor(step, training.steps, training.schedule))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(step)
        return grad_norm

    def _shares(self, source: torch.Generator) -> list[Tensor]:
        """Positions (0, 1) in the level distribution for this process, one tensor per micro-step."""
        training = self.preset.training
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        draw = stratified if self.preset.objective.timesteps.stratified else uniform
        drawn = draw(training.batch_size * training.gradient_accumulation * world, source)
        return list(drawn.view(world, training.gradient_accumulation, training.batch_size)[rank])

    def _noise(self, batch: Batch, micro: int) -> dict[str, Tensor]:
        rank = self.accelerator.process_index
        return noise_like(batch.latents, generator(self.preset.training.seed, "noise", micro, rank))

    def _captions(self, items: list[Item], micro: int) -> list[str]:
        if all(item.sample.caption_dropout == 0 for item in items):
            return [item.sample.caption for item in items]
        source = generator(self.preset.training.seed, "captions", micro, self.accelerator.process_index)
        kept = torch.rand(len(items), generator=source).tolist()
        return [
            item.sample.caption if draw >= item.sample.caption_dropout else ""
            for item, draw in zip(items, kept, strict=True)
        ]

    def _report(self, loss: float, grad_norm: float, seconds: float) -> None:
        self._recent_s = [*self._recent_s[-ETA_WINDOW_STEPS + 1 :], seconds]
        total = self.preset.training.steps
        mean_s = sum(self._recent_s) / len(self._recent_s)
        device = self.math.placement.device
        self.emitter.emit(
            StepDone(
                step=self.step,
                total_steps=total,
                loss=loss,
                learning_rate=float(self.optimizer.param_groups[0]["lr"]),
                grad_norm=grad_norm,
                step_s=round(seconds, 4),
                eta_s=round(mean_s * (total - self.step), 1),
                epoch=round(self.batches.epoch(self.step * self.preset.training.gradient_accumulation), 3),
                vram_gib=torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None,
            )
        )

    def _fail(self, step: int, seen: list[tuple[list[Item], Tensor, Tensor]]) -> None:
        faults = [
            f"{item.sample.path} at timestep {float(level):.4g}"
            for items, levels, losses in seen
            for item, level, loss in zip(items, levels, losses, strict=False)
            if not torch.isfinite(loss)
        ]
        raise TrainingError(
            f"the loss of step {step} is not finite for {', '.join(faults)}",
            hint="lower training.learning_rate or remove that sample; the last checkpoint is kept",
        )
