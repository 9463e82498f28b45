"""The command line in this process and in one of its own, and a recorded run to render."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.tiny_catalogue import catalogue as catalogue
from tuner.events import (
    CheckpointSaved,
    Emitter,
    Noted,
    PhaseFinished,
    PhaseProgress,
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

ROOT = Path(__file__).parents[2]

RESULT = {
    "lora": "runs/demo/demo.safetensors",
    "artifact": "runs/demo/demo.safetensors",
    "final_loss": 0.0512,
    "steps": 300,
    "seconds": 3900.0,
    "peak_ram_gib": 1.25,
    "peak_vram_gib": None,
    "contact_sheet": "runs/demo/samples/sheet.png",
    "proof": {},
    "resumed_from": None,
}


def step(number: int, **changes) -> StepDone:
    values = {
        "step": number,
        "total_steps": 300,
        "loss": 0.1 / number,
        "learning_rate": 1e-4,
        "grad_norm": 1.0,
        "step_s": 0.5,
        "eta_s": 0.5 * (300 - number),
        "epoch": number / 30,
    }
    return StepDone(**{**values, **changes})


RECORDED = [
    (0.0, RunStarted(run="runs/demo", model="demo", method="lora", total_steps=300)),
    (0.1, PlanReady(settings={"dtype": "fp32", "device": "cpu"}, reasons={"dtype": "there is no GPU"})),
    (0.1, PhaseStarted(phase="scan")),
    (0.3, PhaseFinished(phase="scan", seconds=0.2, summary="24 images", peak_ram_gib=0.5)),
    (0.3, PhaseStarted(phase="cache-text", total=25, unit="captions")),
    (0.4, PhaseProgress(phase="cache-text", done=1, total=25)),
    (0.5, PhaseProgress(phase="cache-text", done=5, total=25)),
    (0.9, PhaseProgress(phase="cache-text", done=25, total=25)),
    (0.9, PhaseFinished(phase="cache-text", seconds=0.6, peak_ram_gib=1.25, peak_vram_gib=3.5)),
    (1.0, Warned(message="3 captions are longer than 24 tokens", hint="shorten them")),
    (1.0, SampleSaved(step=0, prompt="a [red] star", path="runs/demo/samples/step-000000-0.png")),
    (1.1, ValidationDone(step=0, loss=0.25, by_quantile={"0.5": 0.25}, baseline=0.25)),
    (1.2, PhaseStarted(phase="train", total=300, unit="steps")),
    *((2.0 + 0.5 * number, step(number)) for number in range(1, 8)),
    (40.0, step(8, loss=0.02, step_s=34.5, eta_s=7200.0, vram_gib=17.94)),
    (41.0, CheckpointSaved(step=8, path="runs/demo/checkpoints/step-000008", size_bytes=12_300_000, seconds=0.21)),
    (42.0, step(300)),
    (42.0, PhaseFinished(phase="train", seconds=40.8)),
    (43.0, Noted(message="saving")),
    (
        44.0,
        ProofDone(path="demo.safetensors", loader="FluxPipeline", modules=12, update_norm=1.5, relative_error=1e-7),
    ),
    (45.0, RunFinished(result=RESULT)),
]


@pytest.fixture
def play(monkeypatch):
    """Send recorded events to a sink at their recorded times, and close it."""

    def play(sink, recorded=RECORDED):
        emitter = Emitter([sink])
        for moment, event in recorded:
            monkeypatch.setattr("tuner.events.time.time", lambda moment=moment: moment)
            emitter.emit(event)
        emitter.close()

    return play


@pytest.fixture
def invoke():
    """Call the command line in this process."""
    return lambda *arguments, **options: CliRunner().invoke(app, [str(a) for a in arguments], **options)


@pytest.fixture
def shell(tmp_path):
    """Call the command line in a process of its own, in an empty folder, without a terminal."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TMPDIR": str(tmp_path)}
    folder = tmp_path / "here"
    folder.mkdir()

    def shell(*arguments):
        command = [sys.executable, "-m", "cli.main", *map(str, arguments)]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)

    return shell


@pytest.fixture
def preset(tmp_path, catalogue):
    """A preset on the made-up catalogue."""
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"model": {"id": "tiny-still"}, "data": [{"path": "photos"}]}))
    return path


@pytest.fixture
def engine(monkeypatch):
    """An engine that records how it was called, plays the recorded run and answers its result."""
    calls = []

    def run_preset(resolved, output, sinks, resume=False):
        calls.append(types.SimpleNamespace(resolved=resolved, output=output, resume=resume))
        output.mkdir(parents=True, exist_ok=True)
        emitter = Emitter(list(sinks))
        for _, event in RECORDED:
            emitter.emit(event)
        emitter.close()
        return RESULT

    module = types.ModuleType("tuner.training.run")
    module.run_preset = run_preset
    monkeypatch.setitem(sys.modules, "tuner.training.run", module)
    module.calls = calls
    return module
