from __future__ import annotations

import errno
import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.unit.formats.conftest import CPU
from tuner.config.schema import MethodSection
from tuner.errors import ConfigError, DiskError, ProofError
from tuner.families.base import Source
from tuner.formats import full, prove
from tuner.methods import attach
from tuner.methods.full import FullAttachment


def trained(world, components, *, change=0.05):
    """Modules whose weights have moved."""
    modules = {}
    for number, name in enumerate(components):
        module = world.fresh(name)
        part = world.spec.components[name]
        attachment = attach(module, MethodSection(kind="full"), part, seed=0, dtype=torch.float32)
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for parameter in attachment.parameters().values():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * change)
        modules[name] = module
    return modules


def proven(world, path, modules, dtype):
    probes = {
        name: world.probe(name, module, FullAttachment(module), stored_as=dtype) for name, module in modules.items()
    }
    return prove.prove_full(path, world.family, world.source, probes, device=CPU, dtype=torch.float32)


def tree(folder) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_folder_is_complete_and_proven(worlds, tmp_path):
    world = worlds["sdxl"]
    modules = trained(world, ["unet", "text_encoder"])
    path = full.save(tmp_path / "out", modules, world.source, dtype=torch.float32)
    assert tree(path) == tree(world.source.folder)
    assert json.loads((path / "model_index.json").read_text()).keys() >= {"unet", "text_encoder_2"}
    proof = proven(world, path, modules, torch.float32)
    assert proof.relative_error < 1e-3
    assert proof.update_norm > 0
    assert "UNet2DConditionModel.from_pretrained" in proof.loader


def test_bfloat16_folder(worlds, tmp_path):
    world = worlds["wan"]
    modules = trained(world, ["transformer_2"])
    path = full.save(tmp_path / "out", modules, world.source, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in modules["transformer_2"].parameters()} == {torch.float32}
    assert (path / "transformer" / "config.json").is_file()
    small, large = (
        sum(file.stat().st_size for file in (folder / "transformer_2").glob("*.safetensors"))
        for folder in (path, world.source.folder)
    )
    assert small < 0.7 * large
    assert proven(world, path, modules, torch.bfloat16).relative_error < 1e-3


def test_other_weights_than_the_trained_ones_are_refused(worlds, tmp_path):
    world = worlds["wan"]
    modules = trained(world, ["transformer"])
    path = full.save(tmp_path / "out", modules, world.source, dtype=torch.float32)
    with torch.no_grad():
        modules["transformer"].proj_out.weight.mul_(1.5)
    with pytest.raises(ProofError, match="answers differently"):
        proven(world, path, modules, torch.float32)


def test_missing_weights_are_refused(worlds, tmp_path):
    world = worlds["wan"]
    modules = trained(world, ["transformer"])
    path = full.save(tmp_path / "out", modules, world.source, dtype=torch.float32)
    (file,) = (path / "transformer").glob("*.safetensors")
    tensors = load_file(file)
    tensors.pop("proj_out.weight")
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ProofError, match=r"proj_out\.weight"):
        proven(world, path, modules, torch.float32)


def test_a_save_replaces_an_earlier_one(worlds, tmp_path):
    world = worlds["flux"]
    modules = trained(world, ["transformer"])
    path = full.save(tmp_path / "out", modules, world.source, dtype=torch.float32)
    (path / "stale").write_text("")
    full.save(tmp_path / "out", modules, world.source, dtype=torch.float32)
    assert tree(path) == tree(world.source.folder)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_replaced_components_come_from_where_they_were_given(worlds, tmp_path):
    world = worlds["sdxl"]
    modules = trained(world, ["unet"])
    own = tmp_path / "my_encoder"
    world.fresh("text_encoder").save_pretrained(own)
    (own / "mine").write_text("")
    source = Source(world.source.folder, {"text_encoder": own})
    path = full.save(tmp_path / "out", modules, source, dtype=torch.float32)
    assert (path / "text_encoder" / "mine").is_file()


@pytest.mark.parametrize("where", ["", "inside"])
def test_the_base_model_is_never_written_to(worlds, tmp_path, where):
    world = worlds["flux"]
    with pytest.raises(ConfigError, match="inside each other"):
        full.save(world.source.folder / where, {}, world.source, dtype=torch.float32)


def test_a_base_that_is_no_folder_is_refused(worlds, tmp_path):
    for source in (Source(None), Source(tmp_path)):
        with pytest.raises(ConfigError, match="model_index"):
            full.save(tmp_path / "out", {}, source, dtype=torch.float32)


def test_a_single_file_component_cannot_be_taken_over(worlds, tmp_path):
    world = worlds["sdxl"]
    file = tmp_path / "encoder.safetensors"
    file.write_bytes(b"")
    with pytest.raises(ConfigError, match="text_encoder is a single file"):
        full.save(tmp_path / "out", {}, Source(world.source.folder, {"text_encoder": file}), dtype=torch.float32)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_the_old_folder_and_no_rest(worlds, tmp_path, monkeypatch):
    world = worlds["flux"]
    modules = trained(world, ["transformer"])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("")

    def full_disk(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(DiskError):
        full.save(tmp_path / "out", modules, world.source, dtype=torch.float32)
    assert tree(tmp_path) == {"out/old"}


def test_untrained_weights_are_no_result(worlds, tmp_path):
    world = worlds["flux"]
    modules = trained(world, ["transformer"], change=0.0)
    path = full.save(tmp_path / "out", modules, world.source, dtype=torch.float32)
    with pytest.raises(ProofError, match="update is zero"):
        proven(world, path, modules, torch.float32)
