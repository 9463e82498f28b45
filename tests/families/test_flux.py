"""What only Flux has: guidance as an input, Kontext's references, and the demo's model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.families import harness
from tests.families.harness import PROMPT, Case
from tests.families.test_inputs import check_inputs
from tuner.catalog import registry
from tuner.errors import ConfigError
from tuner.families.base import Cond, Geometry, Latents, Source, load_family

BASE = Path(__file__).parents[2] / "presets" / "demo" / "base"
KONTEXT = "flux1-kontext-dev"


@pytest.fixture
def kontext(cases: Callable[[str], Case]) -> Case:
    return cases(KONTEXT)


def first_inputs(case: Case, **options: Any) -> dict[str, Any]:
    """What the stock pipeline gives the denoiser at its first step."""
    parts = case.load("transformer")
    module = parts["transformer"]
    pipeline = case.pipeline(parts)
    args, kwargs = harness.inputs_of(module, lambda: case.sample(pipeline, **options))
    return harness.named_inputs(module, args, kwargs)


def test_a_missing_reference_is_caught(kontext: Case) -> None:
    cond = kontext.cond()
    with pytest.raises(AssertionError):
        check_inputs(kontext, kontext.family, Cond(cond.tensors), encode=False)


def test_reference_ids_unlike_the_pipelines_are_caught(kontext: Case) -> None:
    class Unmarked(type(kontext.family)):  # type: ignore[misc]
        def predict(self, denoiser: Any, x_t: Latents, t: Tensor, cond: Cond, guidance: float | None) -> Latents:
            def unmarked(*, img_ids: Tensor, **inputs: Any) -> Any:
                return denoiser(img_ids=img_ids * torch.tensor([0.0, 1.0, 1.0]), **inputs)

            unmarked.config = denoiser.config  # type: ignore[attr-defined]
            return super().predict(unmarked, x_t, t, cond, guidance)

    with pytest.raises(AssertionError, match="img_ids"):
        check_inputs(kontext, Unmarked(kontext.spec), kontext.cond(), encode=False)


@pytest.mark.parametrize(("width", "height"), [(300, 300), (640, 360), (100, 290), (500, 470)])
def test_references_are_sized_as_the_pipeline_sizes_them(kontext: Case, width: int, height: int) -> None:
    picture = kontext.picture(0, height, width)
    seen = first_inputs(kontext, image=picture, _auto_resize=True)["img_ids"]
    last = seen[seen[:, 0] == 1].max(dim=0).values
    size = kontext.family.reference_size_px(width, height, kontext.geometry)
    assert size == (16 * (int(last[2]) + 1), 16 * (int(last[1]) + 1))


@pytest.mark.parametrize("model_id", ["flux1-dev", KONTEXT])
@pytest.mark.parametrize(("width", "height"), [(64, 32), (48, 112)])
def test_the_pipeline_draws_at_the_size_asked_for(
    cases: Callable[[str], Case], model_id: str, width: int, height: int
) -> None:
    case = cases(model_id)
    ids = first_inputs(case, **case.family.size_inputs(width, height))["img_ids"]
    last = ids[ids[:, 0] == 0].max(dim=0).values
    assert (16 * (int(last[2]) + 1), 16 * (int(last[1]) + 1)) == (width, height)


def test_any_latent_size(cases: Callable[[str], Case]) -> None:
    case = cases("flux1-dev")
    module = case.denoiser()
    for height, width in ((2, 2), (6, 4), (2, 10)):
        x_t = torch.randn(1, 16, height, width)
        with torch.no_grad():
            answer = case.family.predict(module, {"image": x_t}, torch.tensor([0.5]), case.cond(), 1.0)
        assert answer["image"].shape == x_t.shape


def test_guidance_is_heard(cases: Callable[[str], Case]) -> None:
    case = cases("flux1-dev")
    module, cond = case.denoiser(), case.cond()
    with torch.no_grad():
        answers = [
            case.family.predict(module, case.x0, torch.tensor([0.5]), cond, guidance)["image"]
            for guidance in (1.0, 4.0)
        ]
    assert not torch.equal(*answers)


def test_guidance_must_be_given_where_it_is_embedded(cases: Callable[[str], Case]) -> None:
    case = cases("flux1-dev")
    with pytest.raises(ConfigError, match="guidance"):
        case.family.predict(case.denoiser(), case.x0, torch.tensor([0.5]), case.cond(), None)


def test_guidance_follows_the_network_not_the_preset(cases: Callable[[str], Case]) -> None:
    case = cases("flux1-schnell")
    with torch.no_grad():
        case.family.predict(case.denoiser(), case.x0, torch.tensor([0.5]), case.cond(), 3.5)


def test_only_models_with_references_take_one(cases: Callable[[str], Case]) -> None:
    case = cases("flux1-dev")
    with pytest.raises(ConfigError, match="takes no reference images"):
        case.family.encode_reference(case.frozen["vae"], case.pixels())


def test_text_conditions_have_the_models_length(case_of_flux: Case) -> None:
    row = {name: value[0] for name, value in case_of_flux.cond().tensors.items()}
    assert row["prompt_embeds"].shape == (case_of_flux.spec.text_tokens, 32)
    assert row["pooled_prompt_embeds"].shape == (16,)


@pytest.fixture(params=[spec.id for spec in registry.models().values() if spec.family == "flux"])
def case_of_flux(request: pytest.FixtureRequest, cases: Callable[[str], Case]) -> Case:
    return cases(request.param)


def test_text_encoders_can_be_trained(cases: Callable[[str], Case]) -> None:
    case = cases("demo")
    encoders = case.load(*case.spec.of_role("tokenizer", "text_encoder"))
    for name in ("text_encoder", "text_encoder_2"):
        encoders[name].requires_grad_(True)
    row = case.family.encode_text(encoders, [PROMPT])[0]
    (row["prompt_embeds"].sum() + row["pooled_prompt_embeds"].square().sum()).backward()
    for name in ("text_encoder", "text_encoder_2"):
        assert any(parameter.grad is not None for parameter in encoders[name].parameters())


def test_negative_prompts_only_where_guidance_has_one(cases: Callable[[str], Case]) -> None:
    cond = {"prompt_embeds": torch.zeros(1, 2, 4), "pooled_prompt_embeds": torch.zeros(1, 4)}
    assert cases("flux1-dev").family.pipeline_inputs(cond, cond).keys() == cond.keys()
    guided = cases("demo").family.pipeline_inputs(cond, cond)
    assert guided.keys() == {*cond, "negative_prompt_embeds", "negative_pooled_prompt_embeds"}


def test_the_demos_base_is_what_the_catalogue_says() -> None:
    spec = registry.find("demo")
    family, source = load_family(spec), Source(BASE)
    denoiser = family.load("transformer", source, torch.float32)
    vae = family.load("vae", source, torch.float32)
    assert sum(parameter.numel() for parameter in denoiser.parameters()) == spec.params
    assert denoiser.config.in_channels == 4 * spec.latents.channels
    assert denoiser.config.guidance_embeds == (spec.objective.guidance is not None)
    with torch.no_grad():
        latents = family.encode_media(vae, torch.zeros(1, 3, spec.resolution_px, spec.resolution_px))["image"]
    side = spec.resolution_px // spec.latents.spatial
    assert latents.shape == (1, spec.latents.channels, side, side)
    assert family.load("tokenizer_2", source, torch.float32).model_max_length == spec.text_tokens
    scheduler = family.load("scheduler", source, torch.float32)
    assert scheduler.config.shift == 1.0
    assert not scheduler.config.use_dynamic_shifting


def test_reference_sizes_do_not_depend_on_the_target() -> None:
    family = load_family(registry.find(KONTEXT))
    small = Geometry(64, 64, 0, 0, 64, 64)
    assert family.reference_size_px(2000, 1000, small) == (1456, 720)
