import hashlib
import os

import pytest

from tuner.data import digest
from tuner.data.digest import FileDigests

OLD = 1_600_000_000


def sha(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"one")
    return path


@pytest.fixture
def reads(monkeypatch):
    """Counts how often a file is really read."""
    counted = []
    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: counted.append(file.name) or real(file, name))
    return counted


@pytest.fixture
def settled(monkeypatch):
    monkeypatch.setattr(digest, "SETTLED_S", -1.0)


def test_it_is_the_sha256(path):
    assert FileDigests().digest(path) == sha(b"one")


def test_a_file_is_read_once(path, reads, settled):
    digests = FileDigests()
    assert [digests.digest(path) for _ in range(5)] == [sha(b"one")] * 5
    assert len(reads) == 1


def test_a_file_that_has_just_changed_is_read_again(path, reads):
    digests = FileDigests()
    assert digests.digest(path) == sha(b"one")
    path.write_bytes(b"two")
    assert digests.digest(path) == sha(b"two")
    digests.digest(path)
    assert len(reads) == 3


def test_size_and_dates_kept_do_not_deceive(path, settled):
    os.utime(path, (OLD, OLD))
    digests = FileDigests()
    digests.digest(path)
    path.write_bytes(b"two")
    os.utime(path, (OLD, OLD))
    assert digests.digest(path) == sha(b"two")


def test_a_file_put_in_its_place(path, settled):
    os.utime(path, (OLD, OLD))
    digests = FileDigests()
    digests.digest(path)
    other = path.with_name("other")
    other.write_bytes(b"two")
    os.utime(other, (OLD, OLD))
    other.replace(path)
    assert digests.digest(path) == sha(b"two")


def test_a_change_while_it_is_read_is_not_remembered(path, monkeypatch, settled):
    real = hashlib.file_digest

    def slow(file, name):
        result = real(file, name)
        path.write_bytes(b"changed meanwhile")
        return result

    digests = FileDigests()
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", slow)
        digests.digest(path)
    assert digests.digest(path) == sha(b"changed meanwhile")


def test_the_memo_outlives_the_process(path, tmp_path, reads, settled):
    memo = tmp_path / "deep" / "memo.json"
    first = FileDigests(memo)
    first.digest(path)
    first.remember([path])
    assert FileDigests(memo).digest(path) == sha(b"one")
    assert len(reads) == 1
    path.write_bytes(b"two")
    assert FileDigests(memo).digest(path) == sha(b"two")


def test_two_processes_share_a_memo(path, tmp_path, reads, settled):
    memo, other = tmp_path / "memo.json", path.with_name("other")
    other.write_bytes(b"other")
    first, second = FileDigests(memo), FileDigests(memo)
    for digests, file in ((first, path), (second, other)):
        digests.digest(file)
        digests.remember([file])
    third = FileDigests(memo)
    assert (third.digest(path), third.digest(other)) == (sha(b"one"), sha(b"other"))
    assert len(reads) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"/x": 3}', '{"/x": []}', '{"/x": ["a", "b"]}'])
def test_a_damaged_memo_is_ignored(path, tmp_path, content, settled):
    memo = tmp_path / "memo.json"
    memo.write_text(content)
    digests = FileDigests(memo)
    assert digests.digest(path) == sha(b"one")
    digests.remember([path])
    assert FileDigests(memo)._known[str(path)][1] == sha(b"one")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        FileDigests().digest(tmp_path / "nothing")
