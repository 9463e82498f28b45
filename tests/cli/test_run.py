"""`tuner run`: what it asks of the engine, and what it prints where."""

import json

import pytest

from cli.run import is_interactive
from tests.cli.conftest import RECORDED, RESULT
from tuner.errors import ConfigError


def test_the_result_is_the_only_thing_on_stdout(invoke, preset, engine, tmp_path):
    done = invoke("run", preset, "--output", tmp_path / "out")
    assert done.exit_code == 0
    assert done.stdout == "runs/demo/demo.safetensors\n"
    assert "step 300/300" in done.stderr
    (call,) = engine.calls
    assert (call.output, call.resume, call.resolved.name) == (tmp_path / "out", False, "mine")


def test_several_files_are_one_line_each(invoke, preset, engine, tmp_path, monkeypatch):
    monkeypatch.setitem(RESULT, "artifact", ["high.safetensors", "low.safetensors"])
    assert invoke("run", preset, "--output", tmp_path / "out").stdout == "high.safetensors\nlow.safetensors\n"


def test_a_run_goes_to_runs_and_its_name_unless_told_otherwise(invoke, preset, engine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    invoke("run", preset)
    invoke("run", preset, "--name", "2024")
    assert [str(call.output) for call in engine.calls] == ["runs/mine", "runs/2024"]
    assert engine.calls[1].resolved.preset.name == "2024"


def test_set_reaches_the_preset(invoke, preset, engine, tmp_path):
    flags = ["--set", "training.steps=5", "--set", "method.rank=2"]
    invoke("run", preset, "--output", tmp_path / "out", *flags)
    resolved = engine.calls[0].resolved
    assert (resolved.preset.training.steps, resolved.preset.method.rank) == (5, 2)
    assert resolved.origins["method.rank"] == "flag"


def test_json_is_one_event_per_line_and_nothing_else(invoke, preset, engine, tmp_path):
    done = invoke("run", preset, "--output", tmp_path / "out", "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["seq"] for event in events] == list(range(1, len(RECORDED) + 1))
    assert events[-1]["result"] == RESULT
    assert done.stderr == ""


def test_quiet_leaves_only_the_result(invoke, preset, engine, tmp_path):
    done = invoke("run", preset, "--output", tmp_path / "out", "--quiet")
    assert (done.stdout, done.stderr) == ("runs/demo/demo.safetensors\n", "")


def test_every_run_is_logged_in_its_folder(invoke, preset, engine, tmp_path):
    for _ in range(2):
        invoke("run", preset, "--output", tmp_path / "out", "--quiet")
    log = (tmp_path / "out" / "log.txt").read_text()
    assert log.count("step 300/300 100.0%") == 2


def test_resuming_takes_the_preset_from_the_run(invoke, preset, engine, tmp_path):
    run = tmp_path / "run"
    invoke("run", preset, "--output", run, "--set", "training.steps=5")
    (run / "preset.json").write_text(json.dumps(engine.calls[0].resolved.portable()))
    done = invoke("run", "--resume", run)
    assert done.exit_code == 0
    assert (engine.calls[1].output, engine.calls[1].resume) == (run, True)
    assert engine.calls[1].resolved.portable() == engine.calls[0].resolved.portable()


@pytest.mark.parametrize("arguments", [["demo"], ["--output", "x"], ["--set", "training.steps=5"], ["--name", "x"]])
def test_resuming_takes_nothing_else(invoke, engine, tmp_path, arguments):
    done = invoke("run", "--resume", tmp_path, *arguments)
    assert isinstance(done.exception, ConfigError)
    assert engine.calls == []


def test_resuming_a_folder_without_a_run_is_refused(invoke, engine, tmp_path):
    done = invoke("run", "--resume", tmp_path)
    assert isinstance(done.exception, ConfigError)
    assert "holds no run" in str(done.exception)


def test_a_run_needs_a_preset(invoke, engine):
    done = invoke("run")
    assert isinstance(done.exception, ConfigError)
    assert "presets ls" in done.exception.hint


@pytest.mark.parametrize(
    ("terminal", "environment", "expected"),
    [
        (True, {"TERM": "xterm"}, True),
        (False, {"TERM": "xterm"}, False),
        (True, {"TERM": "dumb"}, False),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (True, {"TERM": "xterm", "NO_COLOR": ""}, True),
    ],
)
def test_only_a_terminal_that_can_and_may_be_redrawn_is(monkeypatch, terminal, environment, expected):
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stderr", type("Stream", (), {"isatty": lambda self: terminal})())
    assert is_interactive() is expected
