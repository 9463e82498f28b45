"""SDXL: what its two text encoders and its size ids are, trained encoders, and the schedule previews are drawn with."""

from __future__ import annotations

import pytest
import torch

from tests.families import harness
from tests.families.harness import Case
from tests.families.tiny import sdxl as tiny
from tuner import methods
from tuner.catalog import registry
from tuner.config.schema import MethodSection, ObjectiveSection
from tuner.families.base import Cond, Geometry, Source
from tuner.memory.checkpointing import blocks_of, checkpoint_blocks
from tuner.objectives.diffusion import DiffusionObjective

ENCODERS = ("text_encoder", "text_encoder_2")
PUBLISHED = {
    "block_out_channels": (320, 640, 1280),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "norm_num_groups": 32,
}
DEPTHS = {
    "sdxl-base": {"transformer_layers_per_block": (1, 2, 10)},
    "ssd-1b": tiny.SSD_1B
    | {
        "transformer_layers_per_block": (0, 2, 4),
        "reverse_transformer_layers_per_block": ((4, 4, 10), (2, 1, 1), 0),
    },
    "segmind-vega": tiny.VEGA,
}


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return harness.load_case(registry.find("sdxl-base"), tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="module")
def vpred(tmp_path_factory):
    return harness.load_case(registry.find("sdxl-vpred"), tmp_path_factory.mktemp("vpred"))


def encoders_of(case: Case) -> dict:
    return {name: case.frozen[name] for name in case.spec.of_role("tokenizer", "text_encoder")}


# --- text --------------------------------------------------------------------------------------------


@torch.no_grad()
def test_rows_are_penultimate_states_and_the_second_projection(case):
    encoders = encoders_of(case)
    (row,) = case.family.encode_text(encoders, ["a cat"])
    states = []
    for number in ("", "_2"):
        tokenizer, encoder = encoders[f"tokenizer{number}"], encoders[f"text_encoder{number}"]
        ids = tokenizer("a cat").input_ids
        ids += [tokenizer.pad_token_id] * (77 - len(ids))
        output = encoder(torch.tensor([ids]), output_hidden_states=True)
        states.append(output.hidden_states[-2][0])
    assert row["prompt_embeds"].shape == (77, tiny.WIDTH + tiny.WIDTH_2)
    torch.testing.assert_close(row["prompt_embeds"], torch.cat(states, dim=-1))
    torch.testing.assert_close(row["pooled_prompt_embeds"], output.text_embeds[0])


def test_encoders_pad_differently(case):
    """The rows above would say nothing of padding if both tokenizers padded alike."""
    encoders = encoders_of(case)
    assert encoders["tokenizer"].pad_token_id != encoders["tokenizer_2"].pad_token_id


@torch.no_grad()
def test_long_captions_are_cut(case):
    (row,) = case.family.encode_text(encoders_of(case), ["a very long caption " * 30])
    assert row["prompt_embeds"].shape[0] == case.spec.text_tokens == 77


def test_negative_text_is_what_the_pipeline_encodes(case):
    pipeline = case.pipeline()
    encoders = encoders_of(case)
    with torch.no_grad():
        cond, negative = (
            case.family.collate(case.family.encode_text(encoders, [text])) for text in (harness.PROMPT, "blurry")
        )
    guided = {"guidance_scale": 5.0, "guidance_rescale": 0.7}
    ours = case.sample(pipeline, **case.family.pipeline_inputs(cond, negative), **guided)
    theirs = case.sample(pipeline, encode=True, negative_prompt="blurry", **guided)
    torch.testing.assert_close(ours, theirs)
    assert not torch.allclose(ours, case.sample(pipeline, encode=True, negative_prompt="another", **guided))


# --- sizes -------------------------------------------------------------------------------------------


def test_time_ids_are_ordered_as_the_pipeline_orders_them(case):
    denoisers = case.load("unet")
    _, kwargs = harness.inputs_of(
        denoisers["unet"],
        lambda: case.sample(
            case.pipeline(denoisers), original_size=(300, 400), crops_coords_top_left=(5, 7), target_size=(32, 48)
        ),
    )
    row = case.family.geometry_row(Geometry(300, 400, 5, 7, 32, 48))
    assert row["time_ids"].tolist() == kwargs["added_cond_kwargs"]["time_ids"][0].tolist()


def test_time_ids_survive_half_precision(case):
    row = case.family.geometry_row(Geometry(3001, 4003, 5, 7, 1024, 1088))
    cond = Cond({"time_ids": row["time_ids"][None]}).to(torch.device("cpu"), torch.bfloat16)
    assert cond.tensors["time_ids"].tolist() == [[3001, 4003, 5, 7, 1024, 1088]]


# --- latents -----------------------------------------------------------------------------------------


@torch.no_grad()
def test_statistics_of_the_vae_are_undone_by_the_pipeline(case):
    vae = tiny.vae(latents_mean=[0.5, -1.0, 2.0, 0.1], latents_std=[2.0, 0.5, 3.0, 1.5])
    latents = case.family.encode_media(vae, case.pixels())["image"]
    pipeline = case.pipeline()
    pipeline.vae = vae

    def stop_at_the_sample(*_):
        return {"latents": latents}

    found = case.sample(pipeline, output_type="pt", callback_on_step_end=stop_at_the_sample)
    plain = vae.decode(vae.encode(case.pixels()).latent_dist.mode()).sample
    torch.testing.assert_close(found, case.oracle.decoded(plain), rtol=0, atol=1e-4)
    assert not torch.allclose(latents, case.x0["image"])


@torch.no_grad()
def test_vae_works_in_float32(case):
    vae = case.load("vae", dtype=torch.bfloat16)["vae"]
    latents = case.family.encode_media(vae, case.pixels())["image"]
    assert latents.dtype == vae.dtype == torch.float32


def test_previews_carry_no_watermark(case, monkeypatch):
    from diffusers.pipelines.stable_diffusion_xl import pipeline_stable_diffusion_xl as module

    monkeypatch.setattr(module, "is_invisible_watermark_available", lambda: True)
    assert case.pipeline().watermark is None


# --- schedules ---------------------------------------------------------------------------------------


def test_vpred_scheduler_starts_at_pure_noise(vpred):
    """The folder holds SDXL's epsilon schedule, as converted checkpoints do."""
    scheduler = vpred.load("scheduler")["scheduler"]
    assert tiny.scheduler("sdxl-vpred").config.prediction_type == "epsilon"
    assert scheduler.config.prediction_type == "v_prediction"
    assert scheduler.config.rescale_betas_zero_snr
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [999.0, 749.0, 499.0, 249.0]


def test_epsilon_scheduler_keeps_its_spacing(case):
    scheduler = case.load("scheduler")["scheduler"]
    assert scheduler.config.prediction_type == "epsilon"
    assert not scheduler.config.rescale_betas_zero_snr
    assert scheduler.config.timestep_spacing == tiny.scheduler("sdxl-base").config.timestep_spacing


@pytest.mark.parametrize("model_id", ["sdxl-base", "sdxl-vpred"])
def test_previews_and_training_share_the_schedule(case, vpred, model_id):
    chosen = case if model_id == "sdxl-base" else vpred
    trained = DiffusionObjective(chosen.spec.objective, ObjectiveSection(), chosen.spec.objective.prediction)
    drawn = chosen.load("scheduler")["scheduler"].alphas_cumprod
    torch.testing.assert_close(trained.alphas_cumprod, drawn, rtol=1e-4, atol=1e-6)


# --- trained text encoders ---------------------------------------------------------------------------


def encoder_gradients(case: Case, *, checkpointed: bool) -> dict[str, torch.Tensor | None]:
    """Gradients of both encoders' LoRA through the frozen U-Net."""
    parts = case.load(*encoders_of(case), "unet")
    parameters = {}
    for name in ENCODERS:
        component = case.spec.components[name]
        found = methods.attach(parts[name], MethodSection(rank=2), component, seed=0, dtype=torch.float32)
        parameters |= {f"{name}.{key}": value for key, value in found.parameters().items()}
        if checkpointed:
            assert checkpoint_blocks(parts[name], component) == 3
        parts[name].train()
    with torch.no_grad():
        for number, parameter in enumerate(parameters.values()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    unet = parts.pop("unet")
    tensors = case.family.collate(case.family.encode_text(parts, [harness.PROMPT]))
    tensors["time_ids"] = case.family.geometry_row(case.geometry)["time_ids"][None]
    t = harness.levels(case)
    x_t, target = harness.noised(case, case.x0, harness.noise_like(case.x0), t)
    prediction = case.family.predict(unet, x_t, t, Cond(tensors), None)
    (prediction["image"] - target["image"]).square().mean().backward()
    return {key: value.grad for key, value in parameters.items()}


def test_gradients_reach_both_text_encoders(case):
    found = encoder_gradients(case, checkpointed=False)
    without = {key for key, gradient in found.items() if gradient is None or not gradient.any()}
    # Only the penultimate states of the first encoder are used: its last layer cannot learn.
    assert without == {key for key in found if key.startswith("text_encoder.encoder.layers.2.")}
    assert len(without) == 2 * 6
    assert len(found) == 6 * len(without)


def test_checkpointed_text_encoders_get_the_same_gradients(case):
    plain, checkpointed = encoder_gradients(case, checkpointed=False), encoder_gradients(case, checkpointed=True)
    assert plain.keys() == checkpointed.keys()
    for key, value in plain.items():
        if value is None:
            assert checkpointed[key] is None
        else:
            torch.testing.assert_close(checkpointed[key], value, msg=key)


# --- the published networks --------------------------------------------------------------------------


@pytest.mark.parametrize("model_id", DEPTHS)
def test_spec_fits_the_published_network(model_id):
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention import BasicTransformerBlock
    from diffusers.models.resnet import ResnetBlock2D

    spec = registry.find(model_id)
    component = spec.components["unet"]
    with torch.device("meta"):
        unet = UNet2DConditionModel(**tiny.unet_config(DEPTHS[model_id]) | PUBLISHED)
    assert sum(parameter.numel() for parameter in unet.parameters()) == spec.params
    repeated = {module for module in unet.modules() if isinstance(module, BasicTransformerBlock | ResnetBlock2D)}
    listed = list(blocks_of(unet, component))
    assert set(listed) == repeated
    assert len(listed) == len(repeated)
    transformers = [module for module in listed if isinstance(module, BasicTransformerBlock)]
    linears = sum(isinstance(m, torch.nn.Linear) for module in transformers for m in module.modules())
    assert len(methods.targets.resolve(unet, MethodSection(), component)) == linears == 10 * len(transformers)


def test_weights_stored_only_in_half_precision_load(case, tmp_path):
    folder = tmp_path / "half"
    for name in ("unet", "text_encoder"):
        part = case.load(name)[name]
        part.half().save_pretrained(folder / name, variant="fp16")
        loaded = case.family.load(name, Source(folder), torch.float32)
        assert [path.name for path in (folder / name).glob("*.fp16.safetensors")]
        for key, value in part.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value.float()), key
