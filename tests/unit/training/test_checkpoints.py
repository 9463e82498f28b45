import resource

import pytest
import torch

from tuner.errors import CheckpointError, DiskError, ExitCode
from tuner.training import checkpoints
from tuner.training.checkpoints import Snapshot


def snapshot(step: int) -> Snapshot:
    source = torch.Generator().manual_seed(step)
    weight = torch.randn(4, 3, generator=source)
    parameter = torch.nn.Parameter(weight.clone())
    optimizer = torch.optim.AdamW([parameter], lr=0.1)
    parameter.grad = torch.randn(4, 3, generator=source)
    optimizer.step()
    return Snapshot(step, {"transformer": {"a.weight": weight}}, {"optimizer": optimizer.state_dict()}, {"loss": 0.5})


def test_what_is_read_is_what_was_written(tmp_path, emitter):
    written = snapshot(7)
    checkpoints.save(tmp_path, written, keep=2, emitter=emitter)
    read = checkpoints.load_newest(tmp_path, emitter)
    assert read.step == 7 and read.values == {"loss": 0.5}
    assert torch.equal(read.tensors["transformer"]["a.weight"], written.tensors["transformer"]["a.weight"])
    state, expected = read.objects["optimizer"]["state"][0], written.objects["optimizer"]["state"][0]
    assert torch.equal(state["exp_avg"], expected["exp_avg"])


def test_only_the_newest_are_kept(tmp_path, emitter):
    for step in (1, 2, 3, 10):
        checkpoints.save(tmp_path, snapshot(step), keep=2, emitter=emitter)
    assert [step for step, _ in checkpoints.listed(tmp_path)] == [10, 3]
    assert checkpoints.load_newest(tmp_path, emitter).step == 10


@pytest.mark.parametrize("damage", ["changed", "missing", "manifest"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, emitter, recorder, damage):
    for step in (1, 2):
        checkpoints.save(tmp_path, snapshot(step), keep=2, emitter=emitter)
    newest = tmp_path / checkpoints.checkpoint_name(2)
    victim = newest / ("manifest.json" if damage == "manifest" else "transformer.safetensors")
    if damage == "missing":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:-8])
    assert checkpoints.load_newest(tmp_path, emitter).step == 1
    warnings = recorder.of("warning")
    assert len(warnings) == 1 and "step 2 is damaged" in warnings[0].message


def test_all_damaged_is_an_error(tmp_path, emitter):
    path = checkpoints.save(tmp_path, snapshot(1), keep=2, emitter=emitter)
    (path / "optimizer.pt").unlink()
    with pytest.raises(CheckpointError, match="none of the 1 checkpoints"):
        checkpoints.load_newest(tmp_path, emitter)


def test_a_half_written_folder_is_not_a_checkpoint(tmp_path, emitter):
    half = tmp_path / ".step-000005.123.tmp"
    half.mkdir()
    (half / "transformer.safetensors").write_bytes(b"half")
    assert checkpoints.load_newest(tmp_path, emitter) is None
    assert not half.exists()


@pytest.mark.parametrize("large", ["tensors", "objects"])
def test_a_disk_without_room_touches_nothing_that_stood(tmp_path, emitter, large):
    checkpoints.save(tmp_path, snapshot(1), keep=1, emitter=emitter)
    too_much = snapshot(2)
    getattr(too_much, large)["large"] = {"weight": torch.randn(300, 300)}
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The system refuses every write past 100 kB in one file, as it does on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, allowed[1]))
    try:
        with pytest.raises(DiskError, match=r"cannot save the checkpoint step-000002") as caught:
            checkpoints.save(tmp_path, too_much, keep=1, emitter=emitter)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
    assert caught.value.exit_code == ExitCode.DISK and "free some space" in caught.value.hint
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-000001"]
    assert checkpoints.load_newest(tmp_path, emitter).step == 1
