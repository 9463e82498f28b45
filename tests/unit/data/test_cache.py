"""Rows survive kills, come back exactly, are never wrong, and several processes may write them."""

import errno
import json
import os
import signal
import time

import pytest
import torch

from tuner.data import cache as module
from tuner.data.cache import RowCache
from tuner.errors import DiskError, TrainingError
from tuner.families.base import Row


def row(seed: int = 0, size: int = 4) -> Row:
    source = torch.Generator().manual_seed(seed)
    return {
        "image": torch.randn(4, size, size, generator=source),
        "ids": torch.tensor([seed, 2, 3]),
        "half": torch.randn(3, generator=source).to(torch.bfloat16),
    }


def same(left, right):
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name]) for name in left
    )


def filled(folder, count=5, per_shard=2, warn=None):
    """Rows ``k0`` and so on, ``per_shard`` in each shard."""
    cache = RowCache(folder, warn) if warn else RowCache(folder)
    for number in range(count):
        cache.put(f"k{number}", row(number))
        if number % per_shard == per_shard - 1:
            cache.flush()
    cache.flush()
    return cache


def shards(folder):
    return sorted(folder.glob("*.safetensors"))


def in_child(work):
    """Run ``work`` in a forked process; returns how it ended."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(7)
    return os.waitpid(child, 0)[1]


def test_rows_come_back_as_they_were(tmp_path):
    filled(tmp_path)
    cache = RowCache(tmp_path)
    for number in range(5):
        assert same(cache.get(f"k{number}"), row(number))


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn]
)
@pytest.mark.parametrize("shape", [(), (3,), (0,), (2, 3, 1)])
def test_every_type_and_shape(tmp_path, dtype, shape):
    value = (torch.rand(shape) * 3).to(dtype)
    cache = RowCache(tmp_path)
    cache.put("k", {"value": value})
    cache.flush()
    back = RowCache(tmp_path).get("k")["value"]
    assert back.dtype == dtype and back.shape == value.shape
    assert torch.equal(back.float(), value.float())


def test_views_of_one_tensor_and_strides(tmp_path):
    batch = torch.randn(3, 4, 5)
    cache = RowCache(tmp_path)
    for number in range(3):
        cache.put(f"k{number}", {"a": batch[number], "b": batch[number].T})
    batch.zero_()
    cache.flush()
    back = RowCache(tmp_path).get("k1")
    assert back["a"].abs().sum() > 0
    assert torch.equal(back["a"], back["b"].T)
    assert sum(shard.stat().st_size for shard in shards(tmp_path)) < 4000


def test_what_one_gets_is_a_copy(tmp_path):
    cache = RowCache(tmp_path)
    cache.put("k", row())
    for _ in range(2):
        cache.get("k")["image"].zero_()
        assert same(cache.get("k"), row())
        cache.flush()


def test_missing_names_what_is_not_there_once_and_in_order(tmp_path):
    cache = filled(tmp_path, count=2)
    cache.put("pending", row())
    assert cache.missing(["k9", "k1", "k8", "k9", "pending", "k0"]) == ["k9", "k8"]


def test_only_what_was_flushed_outlives_the_process(tmp_path):
    cache = filled(tmp_path, count=2)
    cache.put("late", row())
    assert RowCache(tmp_path).missing(["k0", "k1", "late"]) == ["late"]
    cache.flush()
    assert RowCache(tmp_path).missing(["k0", "k1", "late"]) == []


def test_shards_are_written_when_they_are_full(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHARD_ROWS", 4)
    cache = RowCache(tmp_path)
    for number in range(9):
        cache.put(f"k{number}", row(number))
    assert len(shards(tmp_path)) == 2
    monkeypatch.setattr(module, "SHARD_BYTES", 1000)
    cache.put("large", {"x": torch.zeros(1000)})
    assert len(shards(tmp_path)) == 3


def test_putting_again_writes_nothing(tmp_path):
    cache = filled(tmp_path, count=1)
    cache.put("k0", row(9))
    cache.flush()
    assert len(shards(tmp_path)) == 1
    assert same(cache.get("k0"), row(0))


def test_flushing_nothing_writes_nothing(tmp_path):
    RowCache(tmp_path).flush()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_kill_while_writing_loses_that_shard_only(tmp_path, monkeypatch, moment):
    filled(tmp_path, count=2)

    def work():
        target = "os.fsync" if moment == "fsync" else "pathlib.Path.replace"
        monkeypatch.setattr(target, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        cache = RowCache(tmp_path)
        cache.put("late", row(7))
        cache.flush()

    assert os.WTERMSIG(in_child(work)) == signal.SIGKILL
    assert list(tmp_path.glob(".*.tmp"))
    warnings = []
    cache = RowCache(tmp_path, warnings.append)
    assert cache.missing(["k0", "k1", "late"]) == ["late"]
    assert warnings == []
    cache.put("late", row(7))
    cache.flush()
    assert same(RowCache(tmp_path).get("late"), row(7))


def test_what_a_dead_process_left_is_removed_in_time(tmp_path):
    old, young = tmp_path / ".a.safetensors.1.tmp", tmp_path / ".b.safetensors.2.tmp"
    old.touch()
    young.touch()
    os.utime(old, (time.time() - module.ABANDONED_S - 60,) * 2)
    RowCache(tmp_path)
    assert not old.exists() and young.exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.99])
def test_a_shard_cut_short_is_dropped_and_told(tmp_path, share):
    filled(tmp_path)
    damaged = shards(tmp_path)[1]
    data = damaged.read_bytes()
    damaged.write_bytes(data[: int(len(data) * share)])
    warnings = []
    cache = RowCache(tmp_path, warnings.append)
    assert cache.missing([f"k{number}" for number in range(5)]) == ["k2", "k3"]
    assert len(warnings) == 1 and damaged.name in warnings[0]
    assert not damaged.exists()
    assert same(cache.get("k4"), row(4))


def flipped(path, needle):
    """Change one byte of the data that follows the header."""
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    data[start + needle] ^= 1
    path.write_bytes(data)


def test_a_flipped_bit_is_found_on_reading(tmp_path):
    filled(tmp_path, count=2)
    flipped(shards(tmp_path)[0], needle=40)
    warnings = []
    cache = RowCache(tmp_path, warnings.append)
    failed = 0
    for key in ("k0", "k1"):
        try:
            cache.get(key)
        except TrainingError as error:
            failed += 1
            assert "run the same command again" in error.hint
    assert failed >= 1 and len(warnings) == 1 and "checksum" in warnings[0]
    assert RowCache(tmp_path).missing(["k0", "k1"]) == ["k0", "k1"]


@pytest.mark.parametrize("needle", range(0, 1200, 37))
def test_no_flipped_bit_ever_gives_a_wrong_row(tmp_path, needle):
    filled(tmp_path, count=2)
    (shard,) = shards(tmp_path)
    data = bytearray(shard.read_bytes())
    data[needle % len(data)] ^= 1 << needle % 8
    shard.write_bytes(data)
    cache = RowCache(tmp_path, lambda message: None)
    for number in (0, 1):
        if f"k{number}" not in cache.missing([f"k{number}"]):
            try:
                back = cache.get(f"k{number}")
            except TrainingError:
                continue
            assert same(back, row(number))


def test_another_copy_serves_when_one_is_damaged(tmp_path):
    first, second = RowCache(tmp_path), RowCache(tmp_path)
    for cache in (first, second):
        cache.put("k0", row(0))
        cache.flush()
    assert len(shards(tmp_path)) == 2
    flipped(shards(tmp_path)[0], needle=40)
    flipped_first = RowCache(tmp_path, lambda message: None)
    assert same(flipped_first.get("k0"), row(0))
    assert len(shards(tmp_path)) == 1


def test_the_oldest_copy_is_the_one_that_is_read(tmp_path):
    first, second = RowCache(tmp_path), RowCache(tmp_path)
    first.put("k0", row(1))
    second.put("k0", row(2))
    first.flush()
    second.flush()
    assert same(RowCache(tmp_path).get("k0"), row(1))


def test_shards_of_others_are_seen(tmp_path):
    reader = RowCache(tmp_path)
    assert reader.missing(["k0"]) == ["k0"]
    filled(tmp_path, count=1)
    assert same(reader.get("k0"), row(0))
    filled(tmp_path, count=3)
    assert reader.missing(["k0", "k2"]) == []


def test_processes_write_side_by_side(tmp_path):
    def writer(number):
        cache = RowCache(tmp_path)
        for turn in range(10):
            cache.put(f"p{number}-{turn}", row(number * 100 + turn))
            cache.put(f"shared-{turn}", row(turn))
            cache.flush()
        os._exit(0)

    children = []
    for number in range(3):
        child = os.fork()
        if child == 0:
            writer(number)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    cache = RowCache(tmp_path)
    for number in range(3):
        for turn in range(10):
            assert same(cache.get(f"p{number}-{turn}"), row(number * 100 + turn))
            assert same(cache.get(f"shared-{turn}"), row(turn))


def test_a_shard_removed_during_a_run(tmp_path):
    cache = filled(tmp_path, count=2)
    fresh = RowCache(tmp_path)
    fresh._open.clear()
    shards(tmp_path)[0].unlink()
    with pytest.raises(TrainingError, match="lost a row"):
        fresh.get("k0")
    assert cache.missing(["k0"]) == []


def test_a_row_that_was_never_put(tmp_path):
    with pytest.raises(TrainingError) as caught:
        RowCache(tmp_path).get("nothing")
    assert caught.value.hint


def test_other_files_are_left_alone(tmp_path):
    from safetensors.torch import save_file

    save_file({"k0/image": torch.zeros(1)}, tmp_path / "lora.safetensors")
    save_file({"k0/x": torch.zeros(1)}, tmp_path / "newer.safetensors", {"format": "tuner-rows-99", "rows": "?"})
    warnings = []
    assert RowCache(tmp_path, warnings.append).missing(["k0"]) == ["k0"]
    assert warnings == [] and len(shards(tmp_path)) == 2


def test_open_files_and_memory_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "OPEN_SHARDS", 3)
    filled(tmp_path, count=20, per_shard=1)
    cache = RowCache(tmp_path)
    for number in [*range(20), *range(20)]:
        assert same(cache.get(f"k{number}"), row(number))
        assert len(cache._open) <= 3
    assert cache._pending == {}


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    cache = filled(tmp_path, count=1)
    cache.put("late", row(5))

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DiskError, match="No space left"):
            cache.flush()
    assert len(shards(tmp_path)) == 1 and not list(tmp_path.glob(".*"))
    cache.flush()
    assert same(RowCache(tmp_path).get("late"), row(5))


def test_a_header_is_all_it_takes_to_open(tmp_path):
    """What a shard holds stands in itself: no index file can disagree with it."""
    filled(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors"}
    data = shards(tmp_path)[0].read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert set(json.loads(header["__metadata__"]["rows"])) == {"k0", "k1"}
