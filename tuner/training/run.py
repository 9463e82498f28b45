"""A run, from a resolved preset to a proven file: scan, caches, placement, steps, saving, proof.

Each phase hands the next a small value. Whatever ends a run early leaves a folder that goes on from its
newest checkpoint, bit for bit.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from tuner import objectives
from tuner.config.load import Resolved
from tuner.errors import ConfigError, TunerError
from tuner.events import Emitter, Failed, JsonlSink, Noted, PlanReady, RunFinished, RunStarted, Sink, read_events
from tuner.families.base import Source, load_family
from tuner.memory.placement import Placement, peak_ram_gib, place
from tuner.rundir import RunDir, write_json
from tuner.training import checkpoints
from tuner.training.phases import PhaseLog
from tuner.training.prepare import LiveText, Preparation, captions_of, load_encoders
from tuner.training.preview import prompts_of
from tuner.training.quiet import quiet_libraries
from tuner.training.randomness import seed_everything
from tuner.training.session import Session
from tuner.training.signals import stop_requests
from tuner.training.trackers import TrackerSink


def run_preset(resolved: Resolved, output: Path, sinks: list[Sink], resume: bool = False) -> dict[str, Any]:
    """Run ``resolved`` in the folder ``output`` and return what ``result.json`` holds.

    A folder that already holds a run of the same preset is gone on with; ``resume`` insists on that. Raises
    ``TunerError`` of every kind; each is also emitted as an event.
    """
    folder = RunDir(output.resolve())
    _check_one_process()
    _check_resumable(folder, resume)
    folder.create()
    with folder.locked():
        emitter = Emitter([JsonlSink(folder.events), *sinks], seq=_last_seq(folder))
        try:
            return _run(resolved, folder, emitter)
        except TunerError as error:
            emitter.emit(Failed(message=error.message, hint=error.hint, exit_code=int(error.exit_code)))
            raise
        finally:
            emitter.close()


def _run(resolved: Resolved, folder: RunDir, emitter: Emitter) -> dict[str, Any]:
    started = time.perf_counter()
    _claim(folder, resolved)
    earlier = _finished(folder)
    if earlier is not None:
        emitter.emit(Noted(message=f"this run is finished; delete {folder.result} to go on with it"))
        emitter.emit(RunFinished(result=earlier))
        return earlier
    quiet_libraries()
    _check_prediction(resolved)
    family = load_family(objectives.as_trained(resolved.model, resolved.preset.objective))
    placement = place(resolved.preset.memory, resolved.model)
    accelerator = Accelerator(cpu=placement.device.type == "cpu", mixed_precision="no")
    seed_everything(resolved.preset.training.seed)
    source = Source(resolved.model_folder, resolved.overrides)
    log = PhaseLog(emitter, placement.device, {})
    with stop_requests(emitter) as stop, _tracked(resolved, folder, emitter):
        _announce(resolved, folder, placement, emitter)
        session = prepare(Session(resolved, family, source, placement, folder, emitter, accelerator, log, stop))
        result = session.train_and_finish()
    result |= {
        "seconds": round(time.perf_counter() - started, 2),
        "peak_ram_gib": round(peak_ram_gib(), 3),
        "peak_vram_gib": max((record["peak_vram_gib"] or 0.0 for record in log.records.values()), default=0.0) or None,
        "phases": log.records,
    }
    write_json(folder.result, result)
    emitter.emit(RunFinished(result=result))
    return result


def prepare(session: Session) -> Session:
    """Scan, and fill the caches; encoders that learn stay loaded."""
    work = Preparation(session.resolved, session.family, session.source, session.placement, session.log, session.stop)
    session.dataset = work.scan()
    if session.trains_text:
        session.encoders = load_encoders(session.family, session.source, session.placement)
        session.text = LiveText(session.family, session.encoders)
    else:
        prompts = prompts_of(session.resolved.preset.preview)
        session.text = work.cache_text(captions_of(session.dataset, prompts))
    session.media = work.cache_media(session.dataset)
    return session


def _check_prediction(resolved: Resolved) -> None:
    """Refuse a v-prediction checkpoint that would be trained as epsilon: it would learn noise, and say nothing."""
    trained = objectives.as_trained(resolved.model, resolved.preset.objective).objective.prediction
    folder = resolved.model_folder
    config = folder / "scheduler" / "scheduler_config.json" if folder is not None else None
    if trained != "epsilon" or config is None or not config.exists():
        return
    if json.loads(config.read_text(encoding="utf-8")).get("prediction_type") == "v_prediction":
        raise ConfigError(
            f"{folder} holds a v-prediction model, and {resolved.model.id} is trained as epsilon",
            hint="add --set objective.prediction=v_prediction, or choose a v-prediction model",
        )


def _announce(resolved: Resolved, folder: RunDir, placement: Placement, emitter: Emitter) -> None:
    newest = checkpoints.listed(folder.checkpoints)
    emitter.emit(
        RunStarted(
            run=str(folder.path),
            model=resolved.model.id,
            method=resolved.preset.method.kind,
            total_steps=resolved.preset.training.steps,
            resumed_step=newest[0][0] if newest else None,
        )
    )
    plan = PlanReady(settings=placement.settings(), reasons=placement.reasons)
    write_json(folder.plan, {"settings": plan.settings, "reasons": plan.reasons})
    emitter.emit(plan)


def _claim(folder: RunDir, resolved: Resolved) -> None:
    """Write the preset into a new folder; refuse a folder that holds a run of another preset."""
    document = resolved.portable()
    if not folder.preset.exists():
        write_json(folder.preset, document)
        return
    existing = json.loads(folder.preset.read_text(encoding="utf-8"))
    different = sorted(_differences(existing, document))
    if different:
        raise ConfigError(
            f"{folder.path} holds a run of another preset; different: {', '.join(different[:6])}",
            hint=f"choose another folder with --output DIR, or go on with that run: tuner run --resume {folder.path}",
        )


def _differences(left: Any, right: Any, path: str = "") -> Iterator[str]:
    if isinstance(left, dict) and isinstance(right, dict):
        for key in sorted(left.keys() | right.keys()):
            yield from _differences(left.get(key), right.get(key), f"{path}.{key}" if path else key)
    elif left != right:
        yield path


def _check_one_process() -> None:
    """Several processes would write over each other; one run trains on one GPU for now."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "a run trains on one GPU: it cannot be started by torchrun or accelerate launch",
            hint="start it with `tuner run` alone; CUDA_VISIBLE_DEVICES picks the GPU",
        )


def _check_resumable(folder: RunDir, resume: bool) -> None:
    if resume and not folder.preset.exists():
        raise ConfigError(
            f"{folder.path} holds no run to resume", hint="give the folder that the run printed when it started"
        )


def _finished(folder: RunDir) -> dict[str, Any] | None:
    if not folder.result.exists():
        return None
    result: dict[str, Any] = json.loads(folder.result.read_text(encoding="utf-8"))
    return result


def _last_seq(folder: RunDir) -> int:
    return max((int(event.get("seq", 0)) for event in read_events(folder.events)), default=0)


@contextlib.contextmanager
def _tracked(resolved: Resolved, folder: RunDir, emitter: Emitter) -> Iterator[None]:
    """Attach the experiment trackers the preset asks for."""
    if not resolved.preset.track:
        yield
        return
    tracker = TrackerSink(resolved.preset.track, folder, resolved.name, resolved.portable())
    emitter.sinks.append(tracker)
    yield
