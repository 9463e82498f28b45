"""Wan: frames, text rows, timesteps, and which of two experts is asked."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.families import harness
from tests.families.harness import Case, Perfect, forward_replaced
from tuner.catalog import registry
from tuner.families.base import Cond, Source

SMALL, EXPERTS = "wan2.1-t2v-1.3b", "wan2.2-t2v-a14b"


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return harness.load_case(registry.find(SMALL), tmp_path_factory.mktemp("wan"))


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    return harness.load_case(registry.find(EXPERTS), tmp_path_factory.mktemp("wan-experts"))


def rows_of(case: Case, captions: list[str]) -> list[Tensor]:
    encoders = {name: case.frozen[name] for name in ("tokenizer", "text_encoder")}
    with torch.no_grad():
        return [row["prompt_embeds"] for row in case.family.encode_text(encoders, captions)]


def encoded(case: Case, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        return case.family.encode_media(case.frozen["vae"], pixels)["video"]


# --- clips and images --------------------------------------------------------------------------------


@pytest.mark.parametrize(("frames", "latent_frames"), [(1, 1), (5, 2), (9, 3)])
def test_four_frames_make_a_latent_frame_after_the_first(case, frames, latent_frames):
    latents = encoded(case, torch.rand(2, 3, frames, 32, 48) * 2 - 1)
    assert latents.shape == (2, case.spec.latents.channels, latent_frames, 4, 6)
    assert latent_frames == (frames - 1) // case.spec.latents.temporal + 1


def test_default_length_keeps_the_frame_rule():
    for model_id in (SMALL, "wan2.1-t2v-14b", EXPERTS):
        spec = registry.find(model_id)
        assert spec.frames % spec.latents.temporal == 1
        assert spec.resolution_px % spec.latents.divisible_px == 0


def test_image_is_a_clip_of_one_frame(case):
    image = torch.rand(1, 3, 32, 48) * 2 - 1
    assert torch.equal(encoded(case, image), encoded(case, image[:, :, None]))


def test_first_frame_does_not_depend_on_later_ones(case):
    clip = torch.rand(1, 3, 5, 32, 48) * 2 - 1
    torch.testing.assert_close(encoded(case, clip)[:, :, :1], encoded(case, clip[:, :, 0]))


def test_pipeline_lands_on_an_image(case):
    class OneFrame(type(case.oracle)):
        frames = 1

    image = Case(case.spec, case.folder, OneFrame(case.spec))
    denoisers = image.load("transformer")
    with forward_replaced(denoisers, Perfect(image)):
        pipeline = image.pipeline(denoisers)
        found = image.sample(pipeline)
        pixels = image.sample(pipeline, output_type="pt")
    torch.testing.assert_close(found, image.x0["video"], rtol=0, atol=0.01)
    with torch.no_grad():
        plain = image.frozen["vae"].decode(image.frozen["vae"].encode(image.pixels()).latent_dist.mode()).sample
    torch.testing.assert_close(pixels, image.oracle.decoded(plain), rtol=0, atol=0.01)


def test_vae_stays_in_float32(case):
    source = Source(case.folder)
    assert {p.dtype for p in case.family.load("vae", source, torch.bfloat16).parameters()} == {torch.float32}
    assert case.family.load("text_encoder", source, torch.bfloat16).dtype == torch.bfloat16


def test_sensitive_parts_stay_in_float32(experts):
    for name, component in experts.spec.denoisers.items():
        module = experts.denoiser(name, torch.bfloat16)
        assert component.keep_fp32 == type(module)._keep_in_fp32_modules
        for key, parameter in module.named_parameters():
            kept = any(part in key.split(".") for part in component.keep_fp32)
            assert parameter.dtype == (torch.float32 if kept else torch.bfloat16), key


# --- text --------------------------------------------------------------------------------------------


def test_collated_rows_are_the_pipelines_embeddings(case):
    captions = [harness.PROMPT, "", "b" * 700]
    batch = case.family.collate([{"prompt_embeds": row} for row in rows_of(case, captions)])["prompt_embeds"]
    pipeline = case.pipeline()
    for caption, found in zip(captions, batch, strict=True):
        with torch.no_grad():
            wanted, _ = pipeline.encode_prompt(caption, do_classifier_free_guidance=False, max_sequence_length=512)
        torch.testing.assert_close(found, wanted[0], rtol=1e-5, atol=1e-5)
    assert batch.shape == (3, 512, 32)


def test_rows_end_with_the_last_token(case):
    captions = [harness.PROMPT, "", "b" * 700]
    ids = case.frozen["tokenizer"](captions, truncation=True, max_length=512)["input_ids"]
    assert [len(row) for row in rows_of(case, captions)] == [len(tokens) for tokens in ids]
    assert len(ids[1]) == 1
    assert len(ids[2]) == 512


@pytest.mark.parametrize(
    ("written", "meant"),
    [("  a\n\n cat ", "a cat"), ("cat &amp;amp; dog", "cat & dog"), ("caf\u00c3\u00a9", "caf\u00e9")],
    ids=["whitespace", "html", "wrong encoding"],
)
def test_captions_are_cleaned_as_prompts_are(case, written, meant):
    found, wanted, other = rows_of(case, [written, meant, "cafe cat"])
    assert torch.equal(found, wanted)
    assert not (found.shape == other.shape and torch.allclose(found, other))


# --- the network's inputs ----------------------------------------------------------------------------


def test_timestep_is_not_rounded(case):
    t = torch.tensor([0.12345, 0.98765])
    x_t = {"video": torch.randn(2, 16, 2, 4, 6)}
    cond = Cond({"prompt_embeds": torch.zeros(2, 512, 32)})
    denoiser = case.denoiser()
    _, inputs = harness.inputs_of(denoiser, lambda: case.family.predict(denoiser, x_t, t, cond, None))
    assert inputs["timestep"].dtype == torch.float32
    torch.testing.assert_close(inputs["timestep"], torch.tensor([123.45, 987.65]))


def timesteps_seen(case: Case, steps: int) -> dict[str, list[float]]:
    """The timesteps at which the stock pipeline asks each denoiser."""
    seen: dict[str, list[float]] = {name: [] for name in case.spec.denoisers}
    denoisers = case.load(*case.spec.denoisers)
    perfect = Perfect(case)

    def asked(name: str):
        def forward(*args, **kwargs):
            seen[name].append(float(kwargs["timestep"][0]))
            return perfect(*args, **kwargs)

        return forward

    for name, module in denoisers.items():
        module.forward = asked(name)
    found = case.sample(case.pipeline(denoisers), num_inference_steps=steps)
    torch.testing.assert_close(found, case.x0["video"], rtol=0, atol=0.01)
    return seen


def test_experts_share_the_noise_levels(experts):
    high, low = experts.spec.denoisers.values()
    assert (low.sigma_min, high.sigma_max) == (0.0, 1.0)
    assert low.sigma_max == high.sigma_min == experts.family.pipeline_config()["boundary_ratio"] == 0.875
    assert (high.label, low.label) == ("high_noise", "low_noise")


def test_pipeline_asks_each_expert_in_its_range(experts):
    seen = timesteps_seen(experts, steps=8)
    for name, component in experts.spec.denoisers.items():
        assert seen[name], f"{name} was not asked"
        assert component.sigma_min <= min(seen[name]) / 1000
        assert max(seen[name]) / 1000 < component.sigma_max
    assert sum(map(len, seen.values())) == 8


def test_one_network_is_asked_at_all_levels(case):
    pipeline = case.pipeline()
    assert pipeline.transformer_2 is None
    assert pipeline.config.boundary_ratio is None
    assert len(timesteps_seen(case, steps=4)["transformer"]) == 4


def test_experts_are_different_networks(experts):
    high, low = (experts.denoiser(name).state_dict() for name in ("transformer", "transformer_2"))
    assert high.keys() == low.keys()
    assert not torch.equal(high["proj_out.weight"], low["proj_out.weight"])


# --- previews ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_id", [SMALL, EXPERTS])
def test_preview_needs_no_text_encoder(model_id, case, experts):
    case = case if model_id == SMALL else experts
    prompt, negative, other = (
        case.family.collate([{"prompt_embeds": row}]) for row in rows_of(case, ["a cat", "", "a dog"])
    )
    pipeline = case.family.pipeline(case.load("vae", "scheduler", *case.spec.denoisers))
    pipeline.set_progress_bar_config(disable=True)

    def draw(negative: dict[str, Tensor]) -> list:
        output = pipeline(
            **case.family.pipeline_inputs(prompt, negative),
            **case.family.size_inputs(48, 32),
            **case.spec.sampling.extra,
            num_frames=5,
            num_inference_steps=2,
            guidance_scale=case.spec.sampling.guidance_scale,
            generator=torch.Generator().manual_seed(0),
            output_type="pil",
        )
        return output.frames[0]

    frames = draw(negative)
    assert [frame.size for frame in frames] == [(48, 32)] * 5
    assert any(a.tobytes() != b.tobytes() for a, b in zip(frames, draw(other), strict=True))
