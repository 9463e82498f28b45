"""Runs of the real program in processes of their own, on the base model that ships with the project."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory):
    """One cache for all runs of the session, away from the user's own."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def environment(cache_folder):
    """The environment of a headless run."""
    return {
        **os.environ,
        "TUNER_CACHE": str(cache_folder),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "2",
        "HF_HUB_OFFLINE": "1",
        "NO_COLOR": "1",
    }


@pytest.fixture(scope="session")
def tuner(environment):
    """Call the command line and wait for it."""

    def call(*arguments, **options):
        return subprocess.run(
            [sys.executable, "-m", "cli.main", *map(str, arguments)],
            env={**environment, **options.pop("env", {})},
            capture_output=True,
            text=True,
            timeout=600,
            **options,
        )

    return call


def write_preset(folder: Path, **changes) -> Path:
    """A short LoRA run on the demo's base and pictures; ``changes`` replace whole sections."""
    preset = {
        "name": "small",
        "model": {"id": "demo"},
        "method": {"kind": "lora", "rank": 4, "dropout": 0.1},
        "data": [{"path": str(ROOT / "presets" / "demo" / "images"), "captions": {"dropout": 0.2}}],
        "training": {"steps": 12, "batch_size": 2, "learning_rate": 1e-3, "ema": {"decay": 0.9}},
        "save": {"every_steps": 4, "dtype": "fp32"},
        **changes,
    }
    path = folder / "preset.json"
    path.write_text(json.dumps(preset))
    return path
