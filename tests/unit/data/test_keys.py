"""Keys follow content: a move changes none, an edit changes the one it concerns."""

import dataclasses
import json
import os
import shutil

import pytest

from tests.unit.data.test_buckets import sample
from tuner.config.schema import DataSection
from tuner.data import keys
from tuner.data.buckets import assign
from tuner.data.keys import component_identity, latent_key, text_key
from tuner.errors import AccessError, DatasetError
from tuner.families.base import Source


@pytest.fixture
def files(tmp_path):
    for name in ("a.png", "r.png", "m.png"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


@pytest.fixture
def item(files, edit_model):
    entry = sample(
        path=files / "a.png", references=(files / "r.png",), reference_sizes_px=((9, 9),), mask=files / "m.png"
    )
    return assign([entry], [DataSection(path="x")], edit_model)[0]


def key(item):
    return latent_key(item, "vae", "bf16")


def with_sample(item, **values):
    return dataclasses.replace(item, sample=dataclasses.replace(item.sample, **values))


def test_a_key_is_a_file_name(item):
    for name in (key(item), text_key("a cat", "t5", 512)):
        assert len(name) == 64 and set(name) <= set("0123456789abcdef")
    assert key(item) == key(item)


def test_moving_and_renaming_keep_the_key(files, item):
    before = key(item)
    (files / "new").mkdir()
    for name in ("a.png", "r.png", "m.png"):
        shutil.move(files / name, files / "new" / f"other-{name}")
    at = files / "new"
    moved = with_sample(
        item, path=at / "other-a.png", references=(at / "other-r.png",), mask=at / "other-m.png", source=3
    )
    assert key(moved) == before
    os.utime(at / "other-a.png", (1, 1))
    assert key(moved) == before


@pytest.mark.parametrize("name", ["a.png", "r.png", "m.png"])
@pytest.mark.parametrize("keep_time", [False, True])
def test_editing_any_of_the_files_changes_the_key(files, item, name, keep_time):
    old = 1_600_000_000
    os.utime(files / name, (old, old))
    before = key(item)
    (files / name).write_bytes(name.upper().encode())
    if keep_time:  # same size, same date: as some editors and copying tools leave it
        os.utime(files / name, (old, old))
    assert key(item) != before


@pytest.mark.parametrize(
    "change",
    [
        *({"width_px": 32}, {"height_px": 32}, {"left_px": 1}, {"top_px": 1}, {"scaled_width_px": 99}),
        *({"frames": 5}, {"fps": 8.0}, {"start_s": 0.5}),
    ],
)
def test_cutting_otherwise_changes_the_key(item, change):
    cut = dataclasses.replace(item.crop, **change)
    assert key(dataclasses.replace(item, crop=cut)) != key(item)
    reference = dataclasses.replace(item.reference_crops[0], **change)
    assert key(dataclasses.replace(item, reference_crops=(reference,))) != key(item)


def test_what_encodes_changes_the_key(item):
    names = {latent_key(item, identity, dtype) for identity in ("vae", "other") for dtype in ("bf16", "fp32")}
    assert len(names) == 4


def test_references_and_masks_are_told_apart(files, item):
    variants = [
        item,
        with_sample(item, mask=None),
        with_sample(item, references=()),
        with_sample(item, references=(), mask=files / "r.png"),
        with_sample(item, references=(files / "m.png",), mask=files / "r.png"),
        with_sample(item, references=(files / "r.png", files / "m.png"), mask=None),
    ]
    assert len({key(variant) for variant in variants}) == len(variants)


def test_the_caption_is_no_part_of_the_latents(item):
    assert key(with_sample(item, caption="another", caption_dropout=0.5)) == key(item)


def test_another_version_changes_every_key(item, monkeypatch):
    before = key(item), text_key("a", "t5", 1)
    monkeypatch.setattr(keys, "ROWS_VERSION", keys.ROWS_VERSION + 1)
    assert key(item) != before[0] and text_key("a", "t5", 1) != before[1]


def test_a_file_that_vanished(files, item):
    (files / "a.png").unlink()
    with pytest.raises(DatasetError, match=r"a\.png"):
        key(item)


def test_text_keys():
    variants = [
        text_key("a cat", "t5", 512),
        text_key("a cat ", "t5", 512),
        text_key("", "t5", 512),
        text_key("a cat", "clip", 512),
        text_key("a cat", "t5", 256),
        text_key("a cat", "t5", 512, ["r1"]),
        text_key("a cat", "t5", 512, ["r1", "r2"]),
        text_key("a cat", "t5", 512, ["r2", "r1"]),
        text_key("un café", "t5", 512),
    ]
    assert len(set(variants)) == len(variants)
    assert text_key("a cat", "t5", 512) == variants[0]


class TestComponents:
    """The identity of a component is that of what is loaded."""

    @pytest.fixture
    def folder(self, tmp_path):
        vae = tmp_path / "model" / "vae"
        vae.mkdir(parents=True)
        (vae / "config.json").write_text("{}")
        (vae / "weights.safetensors").write_bytes(b"weights")
        (tmp_path / "model" / "text").mkdir()
        (tmp_path / "model" / "text" / "config.json").write_text("{}")
        return tmp_path / "model"

    def test_it_stays_when_the_model_moves(self, folder):
        before = component_identity(Source(folder), "vae")
        moved = folder.rename(folder.with_name("elsewhere"))
        assert component_identity(Source(moved), "vae") == before
        assert component_identity(Source(moved), "text") != before

    @pytest.mark.parametrize("name", ["config.json", "weights.safetensors", "added.json"])
    def test_any_file_that_is_loaded_counts(self, folder, name):
        before = component_identity(Source(folder), "vae")
        (folder / "vae" / name).write_bytes(b"changed")
        assert component_identity(Source(folder), "vae") != before

    def test_weights_that_are_not_loaded_do_not(self, folder):
        before = component_identity(Source(folder), "vae")
        (folder / "vae" / "weights.bin").write_bytes(b"the same in another format")
        (folder / "vae" / ".cache").write_bytes(b"a downloader's notes")
        assert component_identity(Source(folder), "vae") == before
        (folder / "vae" / "weights.safetensors").unlink()
        assert component_identity(Source(folder), "vae") != before

    def test_exchanged_names_are_another_component(self, folder):
        (folder / "vae" / "more.safetensors").write_bytes(b"more")
        before = component_identity(Source(folder), "vae")
        (folder / "vae" / "more.safetensors").write_bytes(b"weights")
        (folder / "vae" / "weights.safetensors").write_bytes(b"more")
        assert component_identity(Source(folder), "vae") != before

    def test_a_single_file_and_its_configuration(self, folder, tmp_path):
        single = tmp_path / "single.safetensors"
        single.write_bytes(b"weights")
        source = Source(folder, {"vae": single})
        before = component_identity(source, "vae")
        renamed = single.rename(tmp_path / "renamed.safetensors")
        assert component_identity(Source(folder, {"vae": renamed}), "vae") == before
        (folder / "vae" / "config.json").write_text('{"scaling_factor": 2}')
        assert component_identity(Source(folder, {"vae": renamed}), "vae") != before

    def test_a_folder_in_its_place(self, folder, tmp_path):
        shutil.copytree(folder / "vae", tmp_path / "other")
        same = component_identity(Source(folder, {"vae": tmp_path / "other"}), "vae")
        assert same == component_identity(Source(folder), "vae")

    @pytest.mark.parametrize("part", ["nothing", "empty"])
    def test_no_weights(self, folder, part):
        (folder / "empty").mkdir()
        with pytest.raises(AccessError, match=part) as caught:
            component_identity(Source(folder), part)
        assert caught.value.hint

    def test_large_files_are_read_once(self, folder, tmp_path, monkeypatch):
        memo = tmp_path / "memo" / "digests.json"
        for path in (folder / "vae").iterdir():
            os.utime(path, (1, 1))
        monkeypatch.setattr("tuner.data.digest.SETTLED_S", -1.0)
        before = component_identity(Source(folder), "vae", memo)
        assert len(json.loads(memo.read_text())) == 2
        monkeypatch.setattr("hashlib.file_digest", None)
        assert component_identity(Source(folder), "vae", memo) == before
