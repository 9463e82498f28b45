"""A model's weights: given, shipped, cached, or a clear word on how to get them."""

import json

import pytest

from tuner.config import shipped
from tuner.errors import AccessError, ExitCode

COMMIT = "0" * 40


def write_model(folder, *, without=()):
    """Files that look like the made-up model's, empty."""
    for name in ("tokenizer", "text_encoder", "vae", "transformer"):
        if name in without:
            continue
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text("{}")
        if name != "tokenizer":
            (folder / name / "model.safetensors").write_bytes(b"")
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub's cache on disk, with a snapshot folder for the made-up repository."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    repo = cache / "models--tiny--still"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    return repo / "snapshots" / COMMIT


def test_a_local_folder_is_relative_to_the_preset(load, tmp_path):
    write_model(tmp_path / "base")
    assert load(model={"id": "tiny-still", "path": "base"}).model_folder == tmp_path / "base"


def test_a_local_folder_that_lacks_components_names_them(load, tmp_path):
    write_model(tmp_path / "base", without=("vae", "tokenizer"))
    resolved = load(model={"id": "tiny-still", "path": "base"})
    with pytest.raises(AccessError, match="base lacks tokenizer, vae") as caught:
        _ = resolved.model_folder
    assert caught.value.exit_code == ExitCode.ACCESS
    assert "tokenizer, text_encoder, vae, transformer" in caught.value.hint


def test_replaced_components_need_not_be_in_the_folder(load, tmp_path):
    write_model(tmp_path / "base", without=("vae",))
    model = {"id": "tiny-still", "path": "base", "components": {"vae": "other.safetensors"}}
    assert load(model=model).model_folder == tmp_path / "base"


def test_a_model_of_nothing_but_replacements_has_no_folder(load):
    parts = {name: f"{name}.safetensors" for name in ("tokenizer", "text_encoder", "vae", "transformer")}
    assert load(model={"id": "tiny-still", "components": parts}).model_folder is None


@pytest.mark.parametrize("missing", [[], ["model-00002-of-00002.safetensors"]])
def test_every_shard_must_be_there(load, tmp_path, missing):
    folder = write_model(tmp_path / "base") / "transformer"
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict(zip("ab", shards, strict=True))})
    )
    for shard in set(shards) - set(missing):
        (folder / shard).write_bytes(b"")
    resolved = load(model={"id": "tiny-still", "path": "base"})
    if not missing:
        assert resolved.model_folder == tmp_path / "base"
        return
    with pytest.raises(AccessError, match="lacks transformer"):
        _ = resolved.model_folder


def test_bundled_weights_lie_among_the_shipped_presets(load, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "SHIPPED_FOLDERS", (tmp_path / "presets",))
    resolved = load(model={"id": "tiny-bundled"})
    with pytest.raises(AccessError, match="are missing"):
        _ = resolved.model_folder
    write_model(tmp_path / "presets" / "tiny" / "base")
    assert resolved.model_folder == tmp_path / "presets" / "tiny" / "base"


def test_a_whole_snapshot_in_the_hubs_cache_is_used(load, hub):
    write_model(hub)
    assert load().model_folder == hub


@pytest.mark.parametrize("cached", [False, True])
def test_without_weights_the_hint_is_the_command_that_fetches_them(load, hub, cached):
    if cached:
        write_model(hub, without=("transformer",))
    with pytest.raises(AccessError, match="transformer of tiny/still") as caught:
        _ = load(model={"id": "tiny-still", "revision": "v2"} if not cached else {"id": "tiny-still"}).model_folder
    revision = "" if cached else " --revision v2"
    command = f"hf download tiny/still{revision} --include '*/config.json' --include '*/*.safetensors'"
    assert command in caught.value.hint
    assert "model.path" in caught.value.hint
