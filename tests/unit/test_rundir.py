"""The run folder: atomic writes, what a full disk leaves behind, and one run at a time."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tuner import rundir
from tuner.errors import ConfigError, DiskError, ExitCode
from tuner.rundir import RunDir, disk_errors, write_atomic, write_json

ROOT = Path(__file__).parents[2]

HOLD = """
import sys, time
from pathlib import Path
from tuner.rundir import RunDir
with RunDir(Path(sys.argv[1])).locked():
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path):
    run = RunDir(tmp_path / "runs" / "one")
    run.create()
    return run


@pytest.fixture
def holder(folder):
    """Another process that holds the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder.path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_creating_makes_the_folders_and_may_be_repeated(folder):
    folder.create()
    assert folder.checkpoints.is_dir()
    assert folder.samples.is_dir()
    assert os.fspath(folder) == str(folder.path)
    names = [folder.preset, folder.plan, folder.events, folder.log, folder.result]
    assert [path.name for path in names] == [
        "preset.json",
        "plan.json",
        "events.jsonl",
        "log.txt",
        "result.json",
    ]


def test_a_run_folder_held_by_another_process_is_refused_by_its_number(folder, holder):
    with (
        pytest.raises(ConfigError, match=f"in use by another run \\(process {holder.pid}\\)") as caught,
        folder.locked(),
    ):
        pass
    assert "--output" in caught.value.hint
    assert caught.value.exit_code == ExitCode.PRESET


def test_the_lock_goes_with_its_process_however_that_ends(folder, holder):
    holder.kill()
    holder.wait()
    with folder.locked():
        assert (folder.path / ".lock").read_text() == str(os.getpid())
    with folder.locked():
        pass


def test_writing_replaces_the_whole_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"ü": 1})
    assert json.loads(path.read_text()) == {"ü": 1}
    write_atomic(path, b"bytes")
    assert path.read_bytes() == b"bytes"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(("owner", "call"), [(rundir.os, "fsync"), (Path, "open"), (Path, "replace")])
def test_a_full_disk_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path, monkeypatch, owner, call):
    path = tmp_path / "a.json"
    path.write_text("old")
    with monkeypatch.context() as patched:
        patched.setattr(owner, call, full)
        with pytest.raises(DiskError, match="No space left on device") as caught:
            write_atomic(path, "new")
    assert caught.value.exit_code == ExitCode.DISK
    assert "free some space" in caught.value.hint
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM])
def test_refusals_to_write_are_disk_errors(number):
    with pytest.raises(DiskError, match="saving: ") as caught, disk_errors("saving"):
        raise OSError(number, os.strerror(number))
    assert "--output" in caught.value.hint


def test_other_failures_are_passed_on():
    with pytest.raises(FileNotFoundError), disk_errors("saving"):
        raise FileNotFoundError(errno.ENOENT, "gone")


def test_a_folder_that_cannot_be_made_is_a_disk_error(tmp_path, monkeypatch):
    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(DiskError, match="cannot write to the run folder"):
        RunDir(tmp_path / "new").create()
