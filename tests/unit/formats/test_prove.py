from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.unit.formats.conftest import CPU
from tuner.errors import ProofError
from tuner.formats import lora, prove

DENOISER = {"flux": ["transformer"], "sdxl": ["unet"], "wan": ["transformer", "transformer_2"]}
WITH_ENCODERS = {
    "flux": ["transformer", "text_encoder"],
    "sdxl": ["unet", "text_encoder", "text_encoder_2"],
    "wan": ["transformer", "transformer_2"],
}


def proven(world, tmp_path, components, *, format="auto", dtype=torch.bfloat16, compute=torch.float32, **method):
    adapters, probes = world.train(components, dtype=compute, **method)
    paths = lora.save(tmp_path / "out.safetensors", adapters, world.spec, format=format, dtype=dtype)
    return prove.prove_lora(paths, world.family, world.source, probes, format=format, device=CPU, dtype=compute)


@pytest.mark.parametrize("family", ["flux", "sdxl", "wan"])
@pytest.mark.parametrize("format", ["auto", "diffusers", "comfyui", "kohya"])
def test_lora_round_trip_through_the_stock_loader(worlds, tmp_path, family, format):
    proof = proven(
        worlds[family], tmp_path, WITH_ENCODERS[family], format=format, dtype=torch.float32, rank=3, alpha=5.0
    )
    assert proof.relative_error < 1e-3
    assert proof.update_norm > 0
    assert "load_lora_weights" in proof.loader


@pytest.mark.parametrize("family", ["flux", "sdxl", "wan"])
def test_auto_layout_goes_to_the_loader_as_it_is(worlds, tmp_path, family):
    proof = proven(worlds[family], tmp_path, DENOISER[family], rank=2, rslora=True)
    assert "renamed" not in proof.loader
    assert proof.relative_error < 5e-2


@pytest.mark.parametrize("family", ["flux", "sdxl", "wan"])
def test_bfloat16_all_through_is_exact(worlds, tmp_path, family):
    proof = proven(worlds[family], tmp_path, DENOISER[family], compute=torch.bfloat16, rank=2, alpha=3.0)
    assert proof.relative_error == 0.0


@pytest.mark.parametrize("family", ["flux", "sdxl", "wan"])
@pytest.mark.parametrize("format", ["auto", "diffusers", "comfyui", "kohya"])
def test_dora_round_trip(worlds, tmp_path, family, format):
    proof = proven(worlds[family], tmp_path, WITH_ENCODERS[family], format=format, kind="dora", rank=2, alpha=3.0)
    assert proof.relative_error < 5e-2


@pytest.mark.parametrize("family", ["flux", "sdxl", "wan"])
@pytest.mark.parametrize(
    "method",
    [
        {"kind": "lokr", "rank": 2, "alpha": 3.0},
        {"kind": "lokr", "rank": 2, "factor": 4},
        {"kind": "lokr", "rank": 512},
        {"kind": "loha", "rank": 2, "alpha": 3.0},
    ],
)
def test_lycoris_round_trip_through_its_own_loader(worlds, tmp_path, family, method):
    proof = proven(worlds[family], tmp_path, WITH_ENCODERS[family], dtype=torch.float32, **method)
    assert proof.relative_error < 1e-3
    assert "lycoris" in proof.loader


def test_loha_is_proven_in_a_fused_layout(worlds, tmp_path):
    proof = proven(
        worlds["flux"], tmp_path, ["transformer"], format="comfyui", dtype=torch.float32, kind="loha", rank=2
    )
    assert proof.relative_error < 1e-3


def test_only_the_text_encoder_trained(worlds, tmp_path):
    proof = proven(worlds["sdxl"], tmp_path, ["text_encoder"], dtype=torch.float32, rank=2)
    assert proof.relative_error < 1e-3


def test_text_encoder_layers_that_diffusers_overlooks_are_renamed_first(worlds, tmp_path):
    proof = proven(worlds["sdxl"], tmp_path, ["text_encoder"], dtype=torch.float32, rank=2, targets=["q_proj", "fc1"])
    assert "renamed from kohya" in proof.loader
    assert proof.relative_error < 1e-3


@pytest.mark.parametrize("component", ["transformer", "transformer_2"])
def test_one_expert_alone(worlds, tmp_path, component):
    proof = proven(worlds["wan"], tmp_path, [component], dtype=torch.float32, rank=2)
    assert proof.relative_error < 1e-3


def damaged(world, tmp_path, change):
    """Save, let ``change`` alter the file's tensors, and try to prove it."""
    adapters, probes = world.train(["transformer"], rank=2)
    (path,) = lora.save(tmp_path / "out.safetensors", adapters, world.spec)
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    prove.prove_lora([path], world.family, world.source, probes, device=CPU, dtype=torch.float32)


NAME = "transformer.transformer_blocks.0.attn.to_q"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{NAME}.lora_A.weight") is t.pop(f"{NAME}.lora_B.weight"), "1 of .* missing"),
        (lambda t: t.update({"transformer.nowhere.lora_A.weight": torch.ones(2, 2)}), "belong to no layer"),
        (lambda t: t[f"{NAME}.lora_B.weight"].fill_(float("nan")), "not finite"),
        (lambda t: t.update({f"{NAME}.lora_A.weight": torch.ones(5, 16)}), "refuses"),
        (lambda t: [v.mul_(-1) for k, v in t.items() if "lora_B" in k], "answers differently"),
        (lambda t: t[f"{NAME}.lora_B.weight"].mul_(3), "answers differently"),
    ],
)
def test_a_damaged_file_is_refused(worlds, tmp_path, change, message):
    with pytest.raises(ProofError, match=message) as error:
        damaged(worlds["flux"], tmp_path, change)
    assert "checkpoint" in error.value.hint


def test_a_truncated_file_is_refused(worlds, tmp_path):
    world = worlds["flux"]
    adapters, probes = world.train(["transformer"], rank=2)
    (path,) = lora.save(tmp_path / "out.safetensors", adapters, world.spec)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ProofError, match="read back"):
        prove.prove_lora([path], world.family, world.source, probes, device=CPU, dtype=torch.float32)


def test_an_update_of_zero_is_refused(worlds, tmp_path):
    world = worlds["flux"]
    with pytest.raises(ProofError, match="update is zero"):
        proven(world, tmp_path, ["transformer"], scale=0.0, rank=2)


def test_experts_in_the_wrong_order_are_refused(worlds, tmp_path):
    world = worlds["wan"]
    adapters, probes = world.train(["transformer", "transformer_2"], rank=2)
    paths = lora.save(tmp_path / "out.safetensors", adapters, world.spec)
    with pytest.raises(ProofError, match="answers differently"):
        prove.prove_lora(paths[::-1], world.family, world.source, probes, device=CPU, dtype=torch.float32)


def test_a_missing_file_is_refused(worlds, tmp_path):
    world = worlds["wan"]
    _, probes = world.train(["transformer", "transformer_2"], rank=2)
    with pytest.raises(ProofError, match="1 files"):
        prove.prove_lora([tmp_path / "x"], world.family, world.source, probes, device=CPU, dtype=torch.float32)


def test_probes_leave_the_module_as_it_was(worlds):
    world = worlds["flux"]
    module = world.fresh("transformer").train()
    module.transformer_blocks[0].eval()
    from tuner.config.schema import MethodSection
    from tuner.methods import attach

    part = world.spec.components["transformer"]
    attachment = attach(module, MethodSection(rank=2, dropout=0.5), part, seed=0, dtype=torch.float32)
    probe = world.probe("transformer", module, attachment)
    assert module.training
    assert not module.transformer_blocks[0].training
    assert torch.equal(probe.trained, probe.base)
