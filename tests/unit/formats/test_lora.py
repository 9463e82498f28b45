from __future__ import annotations

import errno
import hashlib
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.unit.formats.conftest import drawn
from tuner.errors import DiskError
from tuner.formats import lora
from tuner.methods.base import Adapter


def one(name: str, **more) -> Adapter:
    layer = {"lora_A": drawn(2, 4), "lora_B": drawn(6, 2, seed=1), **more}
    return Adapter("lora", {name: layer}, {name: 6})


def header(path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def test_one_file_in_the_dtype_asked_for(worlds, tmp_path):
    adapters = {"transformer": one("proj_out"), "text_encoder": one("encoder.layers.0.mlp.fc1")}
    paths = lora.save(tmp_path / "style.safetensors", adapters, worlds["flux"].spec)
    assert paths == [tmp_path / "style.safetensors"]
    tensors = load_file(paths[0])
    assert {key.split(".")[0] for key in tensors} == {"transformer", "text_encoder"}
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}


def test_magnitudes_stay_in_float32(worlds, tmp_path):
    adapter = one("proj_out", magnitude=drawn(6), dora_scale=drawn(6))
    for form in ("diffusers", "kohya"):
        (path,) = lora.save(tmp_path / "a.safetensors", {"transformer": adapter}, worlds["flux"].spec, format=form)
        factors = ("lora_A.weight", "lora_B.weight", "lora_down.weight", "lora_up.weight")
        for key, tensor in load_file(path).items():
            assert tensor.dtype == (torch.bfloat16 if key.endswith(factors) else torch.float32), key
        assert any("magnitude" in key or "alpha" in key for key in load_file(path))


def test_experts_have_a_file_and_a_range_each(worlds, tmp_path):
    adapters = {"transformer": one("proj_out"), "transformer_2": one("proj_out")}
    paths = lora.save(tmp_path / "style.safetensors", adapters, worlds["wan"].spec)
    assert [path.name for path in paths] == ["style_high_noise.safetensors", "style_low_noise.safetensors"]
    assert [header(path)["modelspec.timestep_range"] for path in paths] == ["875,1000", "0,875"]


def test_one_expert_alone_keeps_its_label(worlds, tmp_path):
    (path,) = lora.save(tmp_path / "style.safetensors", {"transformer_2": one("proj_out")}, worlds["wan"].spec)
    assert path.name == "style_low_noise.safetensors"


def test_metadata_and_hash_of_the_tensors(worlds, tmp_path):
    adapters = {"transformer": one("proj_out")}
    (path,) = lora.save(tmp_path / "a.safetensors", adapters, worlds["flux"].spec, metadata={"tuner.model": "x"})
    found = header(path)
    payload = path.read_bytes()
    digest = hashlib.sha256(payload[8 + int.from_bytes(payload[:8], "little") :]).hexdigest()
    assert found["format"] == "pt"
    assert found["tuner.model"] == "x"
    assert found["modelspec.hash_sha256"] == f"0x{digest}"
    assert found["sshs_model_hash"] == digest
    assert "modelspec.timestep_range" not in found


def test_tensors_that_share_memory_or_are_views_are_saved(worlds, tmp_path):
    shared = drawn(6, 6)
    layers = {
        "proj_out": {"lora_A": shared[:2], "lora_B": shared.T[:, :2]},
        "x_embedder": {"lora_A": shared[:2], "lora_B": shared.T[:, :2]},
    }
    adapter = Adapter("lora", layers, dict.fromkeys(layers, 6))
    (path,) = lora.save(tmp_path / "a.safetensors", {"transformer": adapter}, worlds["flux"].spec, dtype=torch.float32)
    assert torch.equal(load_file(path)["transformer.proj_out.lora_B.weight"], shared.T[:, :2])


def test_a_full_disk_leaves_the_old_file_and_no_rest(worlds, tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"old")

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError):
        lora.save(path, {"transformer": one("proj_out")}, worlds["flux"].spec)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_diffusers_reads_lokr_on_the_network(worlds, tmp_path):
    """The file is also read by diffusers itself, by another implementation of LoKr than the one that trained it."""
    world = worlds["flux"]
    adapters, probes = world.train(["transformer"], kind="lokr", rank=2, alpha=3.0)
    (path,) = lora.save(tmp_path / "a.safetensors", adapters, world.spec, dtype=torch.float32)
    network = world.fresh("transformer")
    network.load_lora_adapter(str(path), prefix="transformer")
    probe = probes["transformer"]
    with torch.no_grad():
        answer = probe.inputs.run(network, world.family, torch.device("cpu"), torch.float32)
    assert (answer - probe.trained).norm() < 1e-3 * (probe.trained - probe.base).norm()
