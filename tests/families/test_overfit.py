"""End to end, one model per objective: a sample learned by heart is what the stock pipeline then draws."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.families import harness
from tests.families.harness import Case
from tuner.catalog import registry
from tuner.catalog.spec import ModelSpec

STEPS = {"flow": 250, "epsilon": 350, "v_prediction": 200}
"""Epsilon takes longest: at high levels it says little about the data."""
BATCH = 8
LEARNING_RATE = 3e-3


def one_per_objective() -> list[ModelSpec]:
    """The model with the shortest text for each kind of prediction: the cheapest."""
    models = list(registry.models().values())
    kinds = dict.fromkeys(model.objective.prediction for model in models)
    return [
        min((model for model in models if model.objective.prediction == kind), key=lambda model: model.text_tokens)
        for kind in kinds
    ]


@pytest.mark.parametrize("model_id", [model.id for model in one_per_objective()])
def test_learned_by_heart(cases: Callable[[str], Case], model_id: str) -> None:
    case = cases(model_id)
    name = next(iter(case.spec.denoisers))
    denoiser = case.denoiser(name).requires_grad_(True)
    assert likeness(case, name, denoiser) < 0.5
    learn(case, denoiser.train())
    assert likeness(case, name, denoiser) > 0.95


def likeness(case: Case, name: str, denoiser: torch.nn.Module) -> float:
    """Correlation of the sample's latents and what the stock pipeline draws."""
    found = case.oracle.final(case.sample(case.pipeline({name: denoiser.eval()}), num_inference_steps=20))
    wanted = case.x0[case.modality]
    return float(torch.corrcoef(torch.stack([found.flatten(), wanted.flatten()]))[0, 1])


def learn(case: Case, denoiser: torch.nn.Module) -> None:
    """Full weights on one sample; noise and levels are drawn anew for every step."""
    latents = {key: value.expand(BATCH, *value.shape[1:]) for key, value in case.x0.items()}
    cond = case.cond((harness.PROMPT,) * BATCH)
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    steps = STEPS[case.spec.objective.prediction]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    generator = torch.Generator().manual_seed(harness.SEED)
    for step in range(steps):
        t = torch.rand(BATCH, generator=generator)
        if case.spec.objective.prediction != "flow":
            t = (t * (case.spec.objective.schedule.num_timesteps - 1)).round()
        x_t, target = harness.noised(case, latents, harness.noise_like(latents, seed=step), t)
        prediction = case.family.predict(denoiser, x_t, t, cond, case.embedded_guidance)
        loss = torch.stack([(prediction[key] - wanted).square().mean() for key, wanted in target.items()]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
