"""A run that is killed at random moments, and resumed each time, ends with the very bytes of one left alone."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.runs import write_preset

SECONDS_TO_FIRST_STEP = 120


def start(preset: Path, output: Path, environment: dict) -> subprocess.Popen:
    command = [sys.executable, "-m", "cli.main", "run", str(preset), "--output", str(output), "--quiet"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def steps_done(output: Path) -> int:
    events = output / "events.jsonl"
    if not events.exists():
        return 0
    return sum('"type": "step"' in line for line in events.read_text().splitlines())


def kill_at_random(preset: Path, output: Path, environment: dict, chance: random.Random) -> bool:
    """Start or resume the run and kill it somewhere; True when it was quick enough to finish first."""
    process = start(preset, output, environment)
    before = steps_done(output)
    wanted = before + chance.randint(0, 12)
    deadline = time.monotonic() + SECONDS_TO_FIRST_STEP
    while process.poll() is None and steps_done(output) < wanted and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(chance.uniform(0.0, 0.15))
    process.send_signal(signal.SIGKILL)
    _, stderr = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), stderr.decode()
    return process.returncode == 0


def weights(path: Path) -> bytes:
    """The file without its header, which holds the date."""
    content = path.read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def drill(tmp_path: Path, environment: dict, kills: int, steps: int, seed: int) -> None:
    preset = write_preset(
        tmp_path,
        training={"steps": steps, "batch_size": 2, "learning_rate": 1e-3, "ema": {"decay": 0.9}},
        save={"every_steps": 3, "dtype": "fp32", "keep": 2},
    )
    undisturbed = tmp_path / "undisturbed"
    process = start(preset, undisturbed, environment)
    _, stderr = process.communicate(timeout=900)
    assert process.returncode == 0, stderr.decode()

    chance = random.Random(seed)
    output = tmp_path / "killed"
    done_kills = 0
    while done_kills < kills:
        finished = kill_at_random(preset, output, environment, chance)
        if finished:
            break
        done_kills += 1
    assert done_kills >= kills, f"the run ended after {done_kills} kills: give it more steps"
    process = start(preset, output, environment)
    _, stderr = process.communicate(timeout=900)
    assert process.returncode == 0, stderr.decode()

    assert weights(output / "small.safetensors") == weights(undisturbed / "small.safetensors")
    first, second = (json.loads((run / "result.json").read_text()) for run in (output, undisturbed))
    assert first["final_loss"] == second["final_loss"]
    assert first["resumed_from"] is not None and second["resumed_from"] is None


def test_killed_runs_lose_nothing(tmp_path, environment):
    drill(tmp_path, environment, kills=3, steps=40, seed=1)


@pytest.mark.slow
def test_killed_twenty_times(tmp_path, environment):
    drill(tmp_path, environment, kills=20, steps=200, seed=2)
