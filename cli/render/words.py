"""Events as sentences: what the terminal, the pipe and the log say is worded here once."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

from tuner.events import (
    CheckpointSaved,
    Event,
    Failed,
    Noted,
    PhaseFinished,
    PhaseStarted,
    PlanReady,
    ProofDone,
    RunFinished,
    RunStarted,
    SampleSaved,
    StepDone,
    ValidationDone,
    Warned,
)


def duration(seconds: float) -> str:
    """``38s``, ``44m``, ``2h 05m``: two figures are enough to plan by."""
    if seconds < 59.5:
        return f"{seconds:.0f}s"
    minutes = round(seconds / 60)
    return f"{minutes}m" if minutes < 60 else f"{minutes // 60}h {minutes % 60:02d}m"


def size(count: int) -> str:
    """Bytes in MB or GiB, as people read them."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 1e6:.1f} MB"


def peaks(ram_gib: float | None, vram_gib: float | None) -> str:
    """``peak RAM 1.2 GiB, VRAM 17.9 GiB``, or what is known of it."""
    known = [f"{name} {gib:.1f} GiB" for name, gib in (("RAM", ram_gib), ("VRAM", vram_gib)) if gib is not None]
    return f"peak {', '.join(known)}" if known else ""


def step_figures(event: StepDone, loss: float, step_s: float) -> str:
    """Loss, learning rate, pace and time left; ``loss`` and ``step_s`` smoothed as the caller sees fit."""
    vram = "" if event.vram_gib is None else f"vram {event.vram_gib:.1f} GiB "
    pace = f"{step_s:.2f} s/it"
    return f"loss {loss:.4f} lr {event.learning_rate:.1e} {pace} {vram}eta {duration(event.eta_s)}"


@singledispatch
def sentences(event: Event) -> list[str]:
    """The lines that tell of ``event``; none for events that only move a bar."""
    return []


@sentences.register
def _(event: RunStarted) -> list[str]:
    resumed = "" if event.resumed_step is None else f", going on from step {event.resumed_step}"
    return [f"run {event.run}", f"{event.method} on {event.model}, {event.total_steps} steps{resumed}"]


@sentences.register
def _(event: PlanReady) -> list[str]:
    return [
        f"plan {name} {value}" + (f" ({event.reasons[name]})" if event.reasons.get(name) else "")
        for name, value in event.settings.items()
    ]


@sentences.register
def _(event: PhaseStarted) -> list[str]:
    return [f"{event.phase}: {event.total} {event.unit}".rstrip() if event.total is not None else event.phase]


@sentences.register
def _(event: PhaseFinished) -> list[str]:
    details = [event.summary, peaks(event.peak_ram_gib, event.peak_vram_gib)]
    return ["; ".join([f"{event.phase} done in {event.seconds:.1f} s", *(text for text in details if text)])]


@sentences.register
def _(event: ValidationDone) -> list[str]:
    return [f"step {event.step} validation loss {event.loss:.4f} ({event.baseline:.4f} before training)"]


@sentences.register
def _(event: SampleSaved) -> list[str]:
    return [f"step {event.step} preview {event.path} ({event.prompt})"]


@sentences.register
def _(event: CheckpointSaved) -> list[str]:
    return [f"step {event.step} checkpoint {event.path} ({size(event.size_bytes)} in {event.seconds:.1f} s)"]


@sentences.register
def _(event: ProofDone) -> list[str]:
    return [
        f"proof: {event.loader} loads {event.path}: {event.modules} modules, update norm {event.update_norm:.3g}, "
        f"output within {event.relative_error:.1e} of the trained model"
    ]


@sentences.register
def _(event: Warned) -> list[str]:
    return [f"warning: {event.message}" + (f" ({event.hint})" if event.hint else "")]


@sentences.register
def _(event: Noted) -> list[str]:
    return [event.message]


@sentences.register
def _(event: Failed) -> list[str]:
    return [f"error: {event.message}", *([f"hint: {event.hint}"] if event.hint else [])]


@sentences.register
def _(event: RunFinished) -> list[str]:
    result = event.result
    facts = [
        f"final loss {result['final_loss']:.4f}" if result.get("final_loss") is not None else "",
        peaks(result.get("peak_ram_gib"), result.get("peak_vram_gib")),
    ]
    finished = f"finished: {result['steps']} steps in {duration(result['seconds'])}"
    sheet = result.get("contact_sheet")
    return [
        ", ".join([finished, *(fact for fact in facts if fact)]),
        *(f"saved: {path}" for path in paths(result)),
        *([f"contact sheet: {sheet}"] if sheet else []),
        *how_to_load(result),
    ]


def paths(result: dict[str, Any]) -> list[str]:
    """The finished file, or files, or folder."""
    artifact = result["artifact"]
    return [str(path) for path in artifact] if isinstance(artifact, list) else [str(artifact)]


def how_to_load(result: dict[str, Any]) -> list[str]:
    """What to type, or where to put the file, to use what was trained; by the loader that was proven to take it."""
    if not result.get("lora"):
        return [f'use it in Python: DiffusionPipeline.from_pretrained("{path}")' for path in paths(result)]
    loader = (result.get("proof") or {}).get("loader", "load_lora_weights")
    comfyui = "use it in ComfyUI: put it into models/loras, add Load LoRA"
    if "lycoris" in loader or "renamed" in loader:  # Python's loaders want other names than this file has
        return [comfyui]
    call = "denoiser.load_lora_adapter" if "load_lora_adapter" in loader else "pipeline.load_lora_weights"
    loads = [f'{call}("{path}")' for path in paths(result)]
    return [f"use it in Python: {'; '.join(loads)}", comfyui]
