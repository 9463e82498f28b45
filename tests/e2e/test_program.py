"""The installed program as a person or a script sees it: streams, exit codes, signals, folders."""

import json
import signal
import subprocess
import sys
import time

from tests.e2e.runs import write_preset

SHORT = {"steps": 2, "batch_size": 2}


def test_json_prints_one_event_per_line_and_nothing_else(tuner, tmp_path):
    done = tuner("run", write_preset(tmp_path, training=SHORT), "--output", tmp_path / "run", "--json")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[0]["type"] == "run_started" and events[-1]["type"] == "run_finished"
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert events[-1]["result"] == result
    assert {"lora", "final_loss", "steps", "seconds", "peak_ram_gib", "peak_vram_gib"} <= result.keys()
    assert (tmp_path / "run" / "log.txt").read_text().count("step 2/2") == 1


def test_without_a_terminal_the_path_is_on_stdout_and_the_rest_on_stderr(tuner, tmp_path):
    done = tuner("run", write_preset(tmp_path, training=SHORT), "--output", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'run' / 'small.safetensors'}\n"
    assert "step 2/2" in done.stderr and "\x1b[" not in done.stderr
    for noise in ("Loading weights", "torchvision", "Traceback", "Warning"):
        assert noise not in done.stderr, done.stderr


def test_the_demo_runs_by_name_from_any_folder(tuner, tmp_path):
    done = tuner("run", "demo", "--set", "training.steps=1", "--set", "preview.prompts=[]", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "demo" / "demo.safetensors").exists()


def test_ctrl_c_saves_and_exits_with_130(tmp_path, environment):
    preset = write_preset(tmp_path, training={"steps": 2000, "batch_size": 2}, save={"every_steps": 1000})
    command = [sys.executable, "-m", "cli.main", "run", str(preset), "--output", str(tmp_path / "run")]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    events = tmp_path / "run" / "events.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (events.exists() and '"step": 3,' in events.read_text()):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "stopping" in stderr and "run the same command again" in stderr
    assert len(list((tmp_path / "run" / "checkpoints").glob("step-*"))) == 1


def test_a_preset_with_mistakes_ends_with_2_before_torch_is_loaded(tuner, tmp_path):
    path = tmp_path / "wrong.json"
    path.write_text('{"model": {"id": "flux1-deev"}, "data": [{"path": "x", "resolutoin_px": 512}]}')
    started = time.monotonic()
    done = tuner("run", path)
    assert done.returncode == 2 and time.monotonic() - started < 20
    assert "flux1-dev" in done.stderr and "resolution_px" in done.stderr and done.stdout == ""


def test_missing_data_ends_with_3(tuner, tmp_path):
    done = tuner("run", write_preset(tmp_path, data=[{"path": "nowhere"}]), "--output", tmp_path / "run")
    assert done.returncode == 3
    assert "nowhere" in done.stderr and "Traceback" not in done.stderr


def test_missing_weights_end_with_4_and_the_command_that_fetches_them(tuner, tmp_path):
    preset = write_preset(tmp_path, model={"id": "flux1-dev"}, method={"kind": "lora"})
    done = tuner("run", preset, "--output", tmp_path / "run", env={"HF_HOME": str(tmp_path / "hub")})
    assert done.returncode == 4
    assert "hf download black-forest-labs/FLUX.1-dev --include" in done.stderr


def test_resume_takes_the_preset_from_the_run(tuner, tmp_path):
    output = tmp_path / "run"
    first = tuner("run", write_preset(tmp_path, training={"steps": 4, "batch_size": 2}), "--output", output)
    assert first.returncode == 0, first.stderr
    (output / "result.json").unlink()
    (output / "small.safetensors").unlink()
    (tmp_path / "preset.json").unlink()
    again = tuner("run", "--resume", output)
    assert again.returncode == 0, again.stderr
    assert "going on from step 4" in again.stderr and again.stdout == f"{output / 'small.safetensors'}\n"
