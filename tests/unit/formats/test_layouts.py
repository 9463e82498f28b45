"""Keys of every layout, and the way back."""

from __future__ import annotations

import pytest
import torch

from tests.unit.formats.conftest import drawn
from tuner.errors import ConfigError
from tuner.formats import layouts
from tuner.methods.base import Adapter


def lora_of(*names: str, rank: int = 2, **more) -> Adapter:
    layers = {name: {"lora_A": drawn(rank, 4), "lora_B": drawn(6, rank, seed=1), **more} for name in names}
    return Adapter("lora", layers, dict.fromkeys(names, 6))


CASES = [
    (
        "flux",
        "auto",
        "transformer",
        "transformer_blocks.0.attn.to_out.0",
        "transformer.transformer_blocks.0.attn.to_out.0.lora_A.weight",
    ),
    (
        "flux",
        "comfyui",
        "transformer",
        "transformer_blocks.0.attn.to_out.0",
        "diffusion_model.double_blocks.0.img_attn.proj.lora_A.weight",
    ),
    (
        "flux",
        "kohya",
        "transformer",
        "transformer_blocks.0.attn.to_out.0",
        "lora_unet_double_blocks_0_img_attn_proj.lora_down.weight",
    ),
    (
        "sdxl",
        "auto",
        "unet",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0",
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0.lora_down.weight",
    ),
    (
        "sdxl",
        "comfyui",
        "unet",
        "mid_block.attentions.0.proj_in",
        "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight",
    ),
    (
        "sdxl",
        "diffusers",
        "unet",
        "mid_block.attentions.0.proj_in",
        "unet.mid_block.attentions.0.proj_in.lora_A.weight",
    ),
    ("wan", "auto", "transformer", "blocks.3.attn1.to_q", "diffusion_model.blocks.3.self_attn.q.lora_A.weight"),
    ("wan", "diffusers", "transformer_2", "blocks.3.attn1.to_q", "transformer.blocks.3.attn1.to_q.lora_A.weight"),
    # transformers flattened CLIPTextModel; files keep the level, and so do models with a projection.
    (
        "sdxl",
        "auto",
        "text_encoder",
        "encoder.layers.0.mlp.fc1",
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
    ),
    (
        "sdxl",
        "auto",
        "text_encoder_2",
        "text_model.encoder.layers.0.mlp.fc1",
        "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
    ),
    ("sdxl", "auto", "text_encoder_2", "text_projection", "lora_te2_text_projection.lora_down.weight"),
    (
        "flux",
        "diffusers",
        "text_encoder",
        "encoder.layers.0.mlp.fc1",
        "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight",
    ),
    (
        "flux",
        "comfyui",
        "text_encoder",
        "encoder.layers.0.mlp.fc1",
        "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.lora_A.weight",
    ),
]


@pytest.mark.parametrize(("family", "form", "component", "name", "key"), CASES)
def test_keys(worlds, family, form, component, name, key):
    spec = worlds[family].spec
    layout = layouts.choose(form, spec)
    adapter = lora_of(name)
    tensors = layouts.write({component: adapter}, spec, layout)
    assert next(iter(tensors)) == key
    back = layouts.read(tensors, spec, layout, {component: adapter.rows})
    assert all(torch.equal(back[component][name][part], tensor) for part, tensor in adapter.layers[name].items())


def test_a_single_text_encoder_has_no_number_in_kohya_names(worlds):
    spec = worlds["sdxl"].spec
    one = spec.model_copy(update={"components": {k: v for k, v in spec.components.items() if k != "text_encoder_2"}})
    assert layouts.prefix_of("text_encoder", one, "kohya") == "lora_te_"


def test_only_kohya_files_hold_an_alpha_and_it_is_the_rank(worlds):
    adapter = lora_of("transformer_blocks.0.attn.to_out.0", rank=3)
    for layout in ("diffusers", "comfyui", "kohya"):
        tensors = layouts.write({"transformer": adapter}, worlds["flux"].spec, layout)
        alphas = [float(tensor) for key, tensor in tensors.items() if key.endswith(".alpha")]
        assert alphas == ([3.0] if layout == "kohya" else [])


def test_fused_alpha_is_the_joint_rank(worlds):
    leaves = [f"transformer_blocks.0.attn.to_{x}" for x in "qkv"]
    tensors = layouts.write({"transformer": lora_of(*leaves, rank=3)}, worlds["flux"].spec, "kohya")
    assert float(tensors["lora_unet_double_blocks_0_img_attn_qkv.alpha"]) == 9.0


def test_dora_is_written_for_both_kinds_of_readers(worlds):
    magnitude, dora_scale = drawn(6, seed=5), drawn(6, seed=6)
    adapter = lora_of("proj_out", magnitude=magnitude, dora_scale=dora_scale)
    ours = layouts.write({"transformer": adapter}, worlds["flux"].spec, "diffusers")
    assert torch.equal(ours["transformer.proj_out.lora_magnitude_vector.weight"], magnitude)
    assert torch.equal(ours["transformer.proj_out.dora_scale"], dora_scale.unsqueeze(1))
    theirs = layouts.write({"transformer": adapter}, worlds["flux"].spec, "comfyui")
    assert "diffusion_model.final_layer.linear.dora_scale" in theirs
    assert not any("magnitude" in key for key in theirs)


def test_dora_on_convolutions_has_the_weights_dimensions(worlds):
    layer = {"lora_A": drawn(2, 4, 3, 3), "lora_B": drawn(6, 2, 1, 1), "magnitude": drawn(6), "dora_scale": drawn(6)}
    adapter = Adapter("dora", {"conv_in": layer}, {"conv_in": 6})
    kohya = layouts.write({"unet": adapter}, worlds["sdxl"].spec, "kohya")
    assert kohya["lora_unet_conv_in.dora_scale"].shape == (6, 1, 1, 1)
    peft = layouts.write({"unet": adapter}, worlds["sdxl"].spec, "diffusers")
    assert peft["unet.conv_in.lora_magnitude_vector.weight"].shape == (1, 6, 1, 1)


def test_lycoris_factors_keep_their_names_and_have_no_alpha(worlds):
    layer = {"lokr_w1": drawn(2, 2), "lokr_w2_a": drawn(3, 1), "lokr_w2_b": drawn(1, 2)}
    adapter = Adapter("lokr", {"blocks.0.ffn.net.2": layer}, {"blocks.0.ffn.net.2": 6})
    tensors = layouts.write({"transformer": adapter}, worlds["wan"].spec, "comfyui")
    stem = "diffusion_model.blocks.0.ffn.2."
    assert tensors.keys() == {stem + "lokr_w1", stem + "lokr_w2_a", stem + "lokr_w2_b"}


def test_keys_of_another_model_are_refused(worlds):
    tensors = layouts.write({"transformer": lora_of("blocks.0.ffn.net.2")}, worlds["wan"].spec, "comfyui")
    with pytest.raises(ConfigError, match="belong to no layer"):
        layouts.read(tensors, worlds["wan"].spec, "comfyui", {"transformer": {"proj_out": 6}})


def test_comfyui_names_of_unknown_encoders_are_refused(worlds):
    spec = worlds["flux"].spec
    part = spec.components["text_encoder"].model_copy(update={"cls": "transformers.SomeEncoder"})
    other = spec.model_copy(update={"components": spec.components | {"text_encoder": part}})
    with pytest.raises(ConfigError) as error:
        layouts.write({"text_encoder": lora_of("layer")}, other, "comfyui")
    assert "diffusers" in error.value.hint
