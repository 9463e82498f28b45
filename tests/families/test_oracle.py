"""Fidelity: `predict` answers in the objective's terms, and with the same answers the stock pipeline finds x0."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.families import harness
from tests.families.harness import Case, Perfect, forward_replaced
from tuner.families.base import Family, Latents

MUTATIONS = ["flipped", "timestep x1000", "timestep x0.8"]


def check_predict(case: Case, family: Family) -> None:
    """`predict` on a perfect network equals the target, for every denoiser and two levels in one batch."""
    latents = {name: value.expand(2, *value.shape[1:]) for name, value in case.x0.items()}
    noise = harness.noise_like(latents)
    for name in case.spec.denoisers:
        t = harness.levels(case, 2, name)
        x_t, target = harness.noised(case, latents, noise, t)
        denoiser = case.denoiser(name)
        with forward_replaced({name: denoiser}, Perfect(case)), torch.no_grad():
            answer = family.predict(denoiser, x_t, t, case.cond((harness.PROMPT, "")), case.embedded_guidance)
        assert answer.keys() == target.keys()
        for modality, wanted in target.items():
            assert_close(answer[modality], wanted)


def check_pipeline(case: Case, network: Perfect, **options: Any) -> None:
    """The stock pipeline, driven from pure noise by ``network``, lands on x0."""
    denoisers = case.load(*case.spec.denoisers)
    with forward_replaced(denoisers, network):
        found = case.sample(case.pipeline(denoisers), **options)
    assert_close(case.oracle.final(found), case.x0[case.modality], case.oracle.tolerance)


def assert_close(found: Tensor, wanted: Tensor, tolerance: float = harness.TOLERANCE) -> None:
    assert found.shape == wanted.shape
    error = float((found - wanted).abs().max() / wanted.abs().max())
    assert error < tolerance, f"off by {error:.2g} of the largest value"


def mutated(family: Family, mutation: str) -> Family:
    """The same family with a wrong convention in `predict`."""

    class Mutant(type(family)):  # type: ignore[misc]
        def predict(self, denoiser: Any, x_t: Latents, t: Tensor, cond: Any, guidance: float | None) -> Latents:
            if mutation == "flipped":
                return {name: -value for name, value in super().predict(denoiser, x_t, t, cond, guidance).items()}
            return super().predict(denoiser, x_t, t * float(mutation.split("x")[1]), cond, guidance)

    return Mutant(family.spec)


def mutated_network(case: Case, mutation: str) -> Perfect:
    """The same wrong convention in the oracle: what would hide a mutant from `check_predict`."""
    if mutation == "flipped":
        return Perfect(case, say=lambda wanted: -wanted)
    factor = float(mutation.split("x")[1])
    return Perfect(case, read_level=lambda level: level / factor)


def test_predict_equals_the_target(case: Case) -> None:
    check_predict(case, case.family)


@pytest.mark.parametrize("encode", [False, True], ids=["embeddings", "prompt"])
def test_pipeline_lands_on_x0(case: Case, encode: bool) -> None:
    check_pipeline(case, Perfect(case), encode=encode)


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_wrong_convention_in_predict_is_caught(case: Case, mutation: str) -> None:
    with pytest.raises(AssertionError):
        check_predict(case, mutated(case.family, mutation))


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_wrong_convention_shared_with_the_oracle_is_caught(case: Case, mutation: str) -> None:
    with pytest.raises(AssertionError):
        check_pipeline(case, mutated_network(case, mutation))


def test_pipeline_decodes_what_the_family_encodes(case: Case) -> None:
    """The latents are normalised as the pipeline undoes it: its picture is the VAE's own reconstruction."""
    denoisers = case.load(*case.spec.denoisers)
    with forward_replaced(denoisers, Perfect(case)):
        found = case.sample(case.pipeline(denoisers), output_type="pt")
    vae = case.frozen["vae"]
    with torch.no_grad():
        plain = vae.decode(vae.encode(case.pixels()).latent_dist.mode()).sample
    assert_close(found, case.oracle.decoded(plain), case.oracle.tolerance)
