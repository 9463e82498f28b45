"""One training step of every denoiser: LoRA, full weights, checkpointing, bfloat16."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from tests.families import harness
from tests.families.harness import Case
from tuner import methods
from tuner.config.schema import MethodSection
from tuner.memory.checkpointing import blocks_of, checkpoint_blocks

RANK = 4


def denoiser_loss(case: Case, name: str, module: nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
    """Mean squared error of a batch of two samples with different captions and levels."""
    latents = {key: value.expand(2, *value.shape[1:]) for key, value in case.x0.items()}
    t = harness.levels(case, 2, name)
    x_t, target = harness.noised(case, latents, harness.noise_like(latents), t)
    x_t = {key: value.to(dtype) for key, value in x_t.items()}
    cond = case.cond((harness.PROMPT, "a blue house"), dtype)
    prediction = case.family.predict(module, x_t, t, cond, case.embedded_guidance)
    errors = [(prediction[key].float() - wanted).square().mean() for key, wanted in target.items()]
    return torch.stack(errors).mean()


def gradients(case: Case, name: str, module: nn.Module, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The loss (as ``loss``) and every gradient of one step."""
    module.train()
    loss = denoiser_loss(case, name, module)
    loss.backward()
    found = {key: parameter.grad for key, parameter in parameters.items() if parameter.grad is not None}
    return {"loss": loss.detach()} | {key: value.clone() for key, value in found.items()}


def attached(case: Case, name: str, kind: str) -> tuple[nn.Module, methods.Attachment]:
    """A fresh denoiser with a method on it; adapters are moved away from zero, where half their gradients are."""
    module = case.denoiser(name)
    section = MethodSection(kind=kind) if kind == "full" else MethodSection(kind=kind, rank=RANK)
    attachment = methods.attach(module, section, case.spec.components[name], seed=0, dtype=torch.float32)
    if kind != "full":
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in attachment.parameters().values():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module, attachment


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_every_trained_parameter_gets_a_gradient(case: Case, kind: str) -> None:
    for name in case.spec.denoisers:
        module, attachment = attached(case, name, kind)
        parameters = attachment.parameters()
        found = gradients(case, name, module, parameters)
        assert torch.isfinite(torch.stack([value.norm() for value in found.values()])).all()
        without = {key for key in parameters if key not in found or not found[key].any()}
        known = {key for key in parameters for known in case.oracle.without_gradient if re.fullmatch(known, key)}
        assert without == known


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_checkpointing_changes_nothing(case: Case, kind: str) -> None:
    for name, component in case.spec.denoisers.items():
        module, attachment = attached(case, name, kind)
        plain = gradients(case, name, module, attachment.parameters())
        module, attachment = attached(case, name, kind)
        assert checkpoint_blocks(module, component) >= 2
        runs = count_forwards(next(iter(blocks_of(module, component))))
        checkpointed = gradients(case, name, module, attachment.parameters())
        assert runs[0] == 2, "the block was not computed a second time in the backward pass"
        assert plain.keys() == checkpointed.keys()
        for key, value in plain.items():
            assert torch.equal(value, checkpointed[key]), key


def count_forwards(block: nn.Module) -> list[int]:
    """Counts how often the inside of a block runs, in a list of one."""
    runs = [0]
    inner = next(layer for layer in block.modules() if isinstance(layer, nn.Linear | nn.Conv2d))
    inner.register_forward_hook(lambda *_: runs.__setitem__(0, runs[0] + 1))
    return runs


def test_bfloat16_is_finite(case: Case) -> None:
    for name, component in case.spec.denoisers.items():
        module = case.denoiser(name, torch.bfloat16)
        attachment = methods.attach(module, MethodSection(rank=RANK), component, seed=0, dtype=torch.float32)
        with torch.no_grad():
            for parameter in attachment.parameters().values():
                parameter.add_(0.01)
        loss = denoiser_loss(case, name, module, torch.bfloat16)
        loss.backward()
        assert torch.isfinite(loss)
        for key, parameter in attachment.parameters().items():
            assert parameter.grad is not None, key
            assert torch.isfinite(parameter.grad).all(), key


def test_default_targets_exist(case: Case) -> None:
    """Each expression of the spec matches a layer: a renamed layer would silently be left out."""
    for name, component in case.spec.denoisers.items():
        layers = [key for key, layer in case.denoiser(name).named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
        assert component.lora_targets
        for target in component.lora_targets:
            assert any(re.fullmatch(target, layer) for layer in layers), target
