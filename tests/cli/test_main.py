"""Where errors become text and exit codes, and what goes to which stream."""

import re
import sys
import tempfile

import pytest

from cli import main as entry
from tuner import __version__
from tuner.errors import DatasetError, DiskError, ExitCode, Stopped


@pytest.fixture
def call(monkeypatch, capsys):
    """The entry point itself: exit code, stdout, stderr."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["tuner", *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            entry.main()
        captured = capsys.readouterr()
        return exited.value.code, captured.out, captured.err

    return call


def failing(error):
    def run_preset(resolved, output, sinks, resume=False):
        output.mkdir(parents=True, exist_ok=True)
        raise error

    return run_preset


def test_without_a_command_help_goes_to_stderr_and_the_code_is_usage(shell):
    done = shell()
    assert done.returncode == ExitCode.PRESET
    assert done.stdout == ""
    assert "Commands:" in done.stderr


def test_help_goes_to_stdout(shell):
    done = shell("--help")
    assert (done.returncode, done.stderr) == (ExitCode.OK, "")
    for command in ("run", "models", "presets", "schema", "version"):
        assert re.search(rf"^  {command} ", done.stdout, re.MULTILINE)


def test_the_version_is_data(shell):
    done = shell("version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runn"], "Did you mean 'run'?"),
        (["run", "demo", "--qiet"], "--quiet"),
        (["presets", "show"], "NAME"),
    ],
)
def test_usage_errors_exit_with_2_on_stderr(shell, arguments, words):
    done = shell(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert words.lower() in done.stderr.lower()


def test_a_preset_that_cannot_be_used_says_what_where_and_what_next(shell):
    done = shell("run", "demo", "--set", "training.stps=4", "--set", "method.rank=big")
    assert done.returncode == ExitCode.PRESET
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[0].startswith("error: ") and lines[0].endswith("demo.json cannot be used:")
    assert lines[1:] == [
        '  method.rank: must be a whole number, not "big"',
        "  training.stps: there is no such key; did you mean 'steps'?",
        "hint: `tuner schema` describes every key",
    ]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DatasetError("photos: empty", hint="put pictures there"), 3),
        (DiskError("disk full", hint="free some"), 6),
        (Stopped("stopped at step 4", ExitCode.SIGTERM, hint="tuner run --resume runs/mine"), 143),
    ],
)
def test_errors_of_the_engine_keep_their_code_and_hint(call, preset, engine, tmp_path, error, code):
    engine.run_preset = failing(error)
    answer, out, err = call("run", preset, "--output", tmp_path / "run")
    assert (answer, out) == (code, "")
    assert err == f"error: {error.message}\nhint: {error.hint}\n"


def test_an_error_without_a_hint_is_one_line(call, preset, engine, tmp_path):
    engine.run_preset = failing(DatasetError("photos: empty"))
    assert call("run", preset, "--output", tmp_path / "run")[2] == "error: photos: empty\n"


def test_a_bug_during_a_run_leaves_its_traceback_in_the_run_folder(call, preset, engine, tmp_path):
    engine.run_preset = failing(ZeroDivisionError("a\nb"))
    code, out, err = call("run", preset, "--output", tmp_path / "run")
    assert (code, out) == (ExitCode.UNEXPECTED, "")
    assert err == f"unexpected error: ZeroDivisionError: a b (a bug; details in {tmp_path / 'run' / 'crash.txt'})\n"
    assert "Traceback" in (tmp_path / "run" / "crash.txt").read_text()


def test_a_bug_before_there_is_a_run_folder_leaves_its_traceback_in_a_temporary_file(call, monkeypatch, tmp_path):
    def broken():
        raise KeyError("spec")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("tuner.catalog.registry.listing", broken)
    code, _, err = call("models")
    assert code == ExitCode.UNEXPECTED
    assert len(err.splitlines()) == 1
    (written,) = tmp_path.glob("tuner-crash-*.txt")
    assert str(written) in err
    assert "KeyError: 'spec'" in written.read_text()


def test_ctrl_c_before_the_engine_listens_exits_with_130(call, preset, engine, tmp_path):
    engine.run_preset = failing(KeyboardInterrupt())
    assert call("run", preset, "--output", tmp_path / "run")[0] == ExitCode.SIGINT
