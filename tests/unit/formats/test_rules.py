"""Name tables and what they do to tensors; the original programs' own conversion is the judge."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.unit.formats.conftest import drawn
from tuner.errors import ConfigError
from tuner.families.flux.keys import NAMES as FLUX
from tuner.families.naming import Fuse, KeyRules, Rename
from tuner.families.wan.keys import NAMES as WAN
from tuner.formats import layouts, lora
from tuner.formats.rules import rules_of, to_diffusers, to_original
from tuner.methods.base import Adapter, Layer, is_matrix, weight_rows

QKV = tuple(f"blocks.*.to_{x}" for x in "qkv")
TABLE = KeyRules(
    [Rename("blocks.*.out.0", "b.*.proj"), Rename("norm.linear", "final.1", swap=True)], [Fuse(QKV, "b.*.qkv")]
)
ROWS = {"blocks.7.to_q": 6, "blocks.7.to_k": 4, "blocks.7.to_v": 4, "blocks.7.out.0": 5, "norm.linear": 8}


def low_rank(name: str, rank: int, columns: int = 3, seed: int = 0) -> Layer:
    return {"lora_A": drawn(rank, columns, seed=seed), "lora_B": drawn(ROWS[name], rank, seed=seed + 1)}


def delta(layer: Layer) -> torch.Tensor:
    if "hada_w1_a" in layer:
        return (layer["hada_w1_a"] @ layer["hada_w1_b"]) * (layer["hada_w2_a"] @ layer["hada_w2_b"])
    return layer["lora_B"] @ layer["lora_A"]


def test_names_in_both_directions():
    match = TABLE.original("blocks.7.to_k")
    assert match is not None
    assert match.original == "b.7.qkv"
    assert match.leaves == ("blocks.7.to_q", "blocks.7.to_k", "blocks.7.to_v")
    back = TABLE.diffusers("b.12.proj")
    assert back is not None
    assert back.leaves == ("blocks.12.out.0",)
    assert TABLE.original("blocks.x.to_k") is None
    assert TABLE.original("inner.blocks.7.to_k") is None
    assert TABLE.diffusers("b.7.qkv.more") is None


def test_fusing_stacks_leaves_with_unequal_ranks_and_rows():
    leaves = {name: low_rank(name, rank, seed=rank) for name, rank in zip(list(ROWS)[:3], (2, 1, 4), strict=True)}
    fused = to_original(leaves, TABLE, ROWS)["b.7.qkv"]
    assert fused["lora_A"].shape == (7, 3)
    assert fused["lora_B"].shape == (14, 7)
    torch.testing.assert_close(delta(fused), torch.cat([delta(layer) for layer in leaves.values()]))


def test_a_leaf_that_was_not_trained_has_zero_rows_and_no_rank():
    fused = to_original({"blocks.7.to_v": low_rank("blocks.7.to_v", 2)}, TABLE, ROWS)["b.7.qkv"]
    assert fused["lora_A"].shape == (2, 3)
    assert not delta(fused)[:10].any()
    torch.testing.assert_close(delta(fused)[10:], delta(low_rank("blocks.7.to_v", 2)))


def test_loha_fuses_exactly():
    leaves = {
        name: {key: drawn(*shape, seed=i) for i, (key, shape) in enumerate(shapes.items())}
        for name in list(ROWS)[:3]
        for shapes in [
            {"hada_w1_a": (ROWS[name], 2), "hada_w1_b": (2, 3), "hada_w2_a": (ROWS[name], 2), "hada_w2_b": (2, 3)}
        ]
    }
    fused = to_original(leaves, TABLE, ROWS)
    torch.testing.assert_close(delta(fused["b.7.qkv"]), torch.cat([delta(layer) for layer in leaves.values()]))
    back = to_diffusers(fused, TABLE, ROWS)
    assert all(torch.equal(back[name][key], tensor) for name in leaves for key, tensor in leaves[name].items())


def test_swapping_exchanges_the_halves_of_the_rows():
    layer = low_rank("norm.linear", 2)
    swapped = to_original({"norm.linear": layer}, TABLE, ROWS)["final.1"]
    torch.testing.assert_close(delta(swapped), torch.cat([delta(layer)[4:], delta(layer)[:4]]))
    assert torch.equal(swapped["lora_A"], layer["lora_A"])


@pytest.mark.parametrize("absent", [None, "blocks.7.to_k"])
def test_the_inverse_gives_back_what_was_written(absent):
    layers = {name: low_rank(name, rank, seed=rank) for name, rank in zip(ROWS, (2, 1, 4, 3, 2), strict=True)}
    layers.pop(absent, None)
    back = to_diffusers(to_original(layers, TABLE, ROWS), TABLE, ROWS)
    assert back.keys() == layers.keys()
    assert all(torch.equal(back[name][key], tensor) for name in layers for key, tensor in layers[name].items())


def test_a_fused_layer_without_blocks_is_cut_by_rows():
    fused = {"b.7.qkv": {"lora_A": drawn(2, 3), "lora_B": drawn(14, 2, seed=1)}}
    back = to_diffusers(fused, TABLE, ROWS)
    assert [layer["lora_A"].shape[0] for layer in back.values()] == [2, 2, 2]
    torch.testing.assert_close(torch.cat([delta(layer) for layer in back.values()]), delta(fused["b.7.qkv"]))


def dora(name: str, rank: int) -> Layer:
    return low_rank(name, rank) | {"magnitude": drawn(ROWS[name], seed=8), "dora_scale": drawn(ROWS[name], seed=9)}


def test_dora_rows_are_joined_and_swapped_with_their_weights():
    layers = {name: dora(name, 2) for name in ROWS}
    original = to_original(layers, TABLE, ROWS)
    joined = torch.cat([layers[name]["dora_scale"] for name in list(ROWS)[:3]])
    assert torch.equal(original["b.7.qkv"]["dora_scale"], joined)
    assert torch.equal(original["final.1"]["dora_scale"], layers["norm.linear"]["dora_scale"].roll(4))
    back = to_diffusers(original, TABLE, ROWS)
    assert all(torch.equal(back[name][key], tensor) for name in layers for key, tensor in layers[name].items())


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"blocks.7.to_q": dora("blocks.7.to_q", 2)}, "blocks.7.to_k, blocks.7.to_v"),
        ({"blocks.7.to_q": {"lokr_w1": drawn(2, 3), "lokr_w2": drawn(3, 1)}}, "LoKr"),
        ({"norm.linear": {"lokr_w1": drawn(2, 3), "lokr_w2": drawn(4, 1)}}, "LoKr"),
        ({"elsewhere": {"lora_A": drawn(2, 3), "lora_B": drawn(3, 2)}}, "no name outside diffusers"),
    ],
)
def test_what_an_original_cannot_hold_is_refused_with_an_alternative(layers, message):
    with pytest.raises(ConfigError, match=message) as error:
        to_original(layers, TABLE, ROWS)
    assert "diffusers" in error.value.hint


def test_an_unknown_original_name_is_refused():
    with pytest.raises(ConfigError, match="no layer of this model"):
        to_diffusers({"b.7.else": low_rank("blocks.7.to_q", 2)}, TABLE, ROWS)


# --- the families' tables against diffusers' conversion of original checkpoints ---------------------------------


def real_flux() -> nn.Module:
    """Depth 1 at full width, on which diffusers' conversion insists; on the meta device: only names and shapes."""
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        return FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)


def small_wan() -> nn.Module:
    from diffusers import WanTransformer3DModel

    with torch.device("meta"):
        return WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            text_dim=8,
            freq_dim=16,
            ffn_dim=20,
            num_layers=2,
            image_dim=6,
            added_kv_proj_dim=24,
        )


def linear_layers(network: nn.Module) -> dict[str, tuple[int, int]]:
    """Rows and columns; conversions split rows only, so a few columns stand for all of them."""
    return {
        name: (layer.out_features, min(layer.in_features, 5))
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear)
    }


@pytest.mark.parametrize(("build", "table"), [(real_flux, FLUX), (small_wan, WAN)])
def test_tables_know_every_linear_layer_and_invert(build, table):
    names = linear_layers(build())
    for name in names:
        match = table.original(name)
        assert match is not None, name
        back = table.diffusers(match.original)
        assert back is not None
        assert name in back.leaves


def merge(tensors: dict[str, torch.Tensor], layout: str) -> dict[str, torch.Tensor]:
    """What a program does with a file: strip the prefix, dW = B A alpha / rank."""
    prefix, down, up = {
        "comfyui": ("diffusion_model.", ".lora_A.weight", ".lora_B.weight"),
        "kohya": ("lora_unet_", ".lora_down.weight", ".lora_up.weight"),
    }[layout]
    weights = {}
    for key in [key for key in tensors if key.endswith(down)]:
        stem = key.removesuffix(down)
        a, b = tensors[key].float(), tensors[stem + up].float()
        scale = float(tensors.get(f"{stem}.alpha", torch.tensor(a.shape[0]))) / a.shape[0]
        assert stem.startswith(prefix)
        weights[stem.removeprefix(prefix)] = (b @ a) * scale
    return weights


def undotted(table: KeyRules, names) -> dict[str, str]:
    """kohya's names of the original layers."""
    originals = {table.original(name).original for name in names}
    return {original.replace(".", "_"): original for original in originals}


def random_adapter(network: nn.Module, ranks) -> Adapter:
    layers = {
        name: {
            "lora_A": drawn(ranks(number), columns, seed=2 * number),
            "lora_B": drawn(rows, ranks(number), seed=2 * number + 1),
        }
        for number, (name, (rows, columns)) in enumerate(linear_layers(network).items())
    }
    return Adapter("lora", layers, weight_rows(network))


@pytest.mark.parametrize("layout", ["comfyui", "kohya"])
def test_flux_export_means_the_same_to_the_original(worlds, layout):
    from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers

    network = real_flux()
    adapter = random_adapter(network, lambda number: 1 + number % 3)
    merged = merge(layouts.write({"transformer": adapter}, worlds["flux"].spec, layout), layout)
    if layout == "kohya":
        named = undotted(FLUX, adapter.layers)
        merged = {named[name]: weight for name, weight in merged.items()}
    checkpoint = {f"{name}.weight": weight for name, weight in merged.items()}
    # What the conversion asks for besides: norms, and biases of the layers.
    checkpoint |= {f"{name}.bias": torch.zeros(weight.shape[0]) for name, weight in merged.items()}
    for block in ("double_blocks.0.img_attn", "double_blocks.0.txt_attn", "single_blocks.0"):
        for kind in ("query_norm", "key_norm"):
            checkpoint[f"{block}.norm.{kind}.scale"] = torch.zeros(128)
    converted = convert_flux_transformer_checkpoint_to_diffusers(checkpoint)
    for name, layer in adapter.layers.items():
        torch.testing.assert_close(converted[f"{name}.weight"], delta(layer), rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("layout", ["comfyui", "kohya"])
def test_wan_export_means_the_same_to_the_original(worlds, layout):
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    network = small_wan()
    adapter = random_adapter(network, lambda number: 1 + number % 3)
    merged = merge(layouts.write({"transformer": adapter}, worlds["wan"].spec, layout), layout)
    if layout == "kohya":
        named = undotted(WAN, adapter.layers)
        merged = {named[name]: weight for name, weight in merged.items()}
    converted = convert_wan_transformer_to_diffusers({f"{name}.weight": weight for name, weight in merged.items()})
    assert {key.removesuffix(".weight") for key in converted} == set(adapter.layers)
    for name, layer in adapter.layers.items():
        torch.testing.assert_close(converted[f"{name}.weight"], delta(layer), rtol=1e-5, atol=1e-5, msg=name)


def test_bfloat16_files_keep_the_update_to_its_precision(worlds, tmp_path):
    from safetensors.torch import load_file

    adapter = random_adapter(small_wan(), lambda number: 2)
    (path,) = lora.save(tmp_path / "out.safetensors", {"transformer": adapter}, worlds["wan"].spec, format="comfyui")
    merged = merge(load_file(path), "comfyui")
    for name, layer in adapter.layers.items():
        wanted = delta(layer)
        error = (merged[WAN.original(name).original] - wanted).norm() / wanted.norm()
        assert 0 < error < 2**-7


def test_families_without_a_table_keep_diffusers_names(worlds):
    assert rules_of(worlds["sdxl"].spec) is None
    assert rules_of(worlds["flux"].spec) is FLUX
    assert rules_of(worlds["wan"].spec) is WAN


def test_adapted_layers_are_those_with_a_weight_matrix():
    assert is_matrix(nn.Linear(2, 2))
    assert not is_matrix(nn.LayerNorm(2))
