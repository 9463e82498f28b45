"""What is saved loads through the stock loader into a fresh pipeline, and that draws what the trained model drew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.families import harness
from tests.families.harness import Case
from tuner import methods
from tuner.config.schema import MethodSection
from tuner.errors import ProofError
from tuner.families.base import Parts, Source
from tuner.formats import full, lora, probe, prove
from tuner.formats.loaders import adapted
from tuner.methods.base import Adapter, AdapterAttachment, Attachment

CPU = torch.device("cpu")


def section_of(kind: str) -> MethodSection:
    """Alpha unlike the rank, so that a lost or doubled scale is noticed."""
    return MethodSection(kind="full") if kind == "full" else MethodSection(kind=kind, rank=4, alpha=6.0)


def trained_parts(case: Case, kind: str, names: list[str]) -> tuple[Parts, dict[str, Attachment]]:
    """Components whose method has learned something random."""
    parts = case.load(*names)
    attachments = {}
    generator = torch.Generator().manual_seed(3)
    for name, module in parts.items():
        component = case.spec.components[name]
        attachments[name] = methods.attach(module, section_of(kind), component, seed=0, dtype=torch.float32)
        with torch.no_grad():
            for parameter in attachments[name].parameters().values():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        module.eval()
    return parts, attachments


def adapters_of(attachments: dict[str, Attachment]) -> dict[str, Adapter]:
    return {name: found.adapter() for name, found in attachments.items() if isinstance(found, AdapterAttachment)}


def draw(case: Case, parts: Parts) -> Tensor:
    """A sample of the stock pipeline with ``parts`` in place."""
    denoisers = {name: parts[name] for name in case.spec.denoisers}
    return case.sample(case.pipeline(denoisers))


def load_as_users_do(case: Case, paths: list[Path]) -> Parts:
    """Fresh denoisers in a stock pipeline, the files loaded through its own method."""
    parts = case.load(*case.spec.denoisers)
    pipeline = case.pipeline(parts)
    for path, name in zip(paths, case.spec.denoisers, strict=True):
        first = name == next(iter(case.spec.denoisers))
        pipeline.load_lora_weights(path, **({} if first else {f"load_into_{name}": True}))
    return parts


def test_lora_loads_with_the_stock_loader(case: Case, tmp_path: Path) -> None:
    parts, attachments = trained_parts(case, "lora", list(case.spec.denoisers))
    paths = lora.save(tmp_path / "it.safetensors", adapters_of(attachments), case.spec, dtype=torch.float32)
    fresh = load_as_users_do(case, paths)
    tensors = 0
    for name, adapter in adapters_of(attachments).items():
        assert adapted(fresh[name]) == adapter.layers.keys()
        tensors += 2 * len(adapter.layers)
    assert tensors == sum(carriers(path) for path in paths), "the file holds keys that nobody loads"
    trained, found = draw(case, parts), draw(case, fresh)
    plain = draw(case, case.load(*case.spec.denoisers))
    assert (found - trained).abs().max() < 1e-3 * (trained - plain).abs().max()


def carriers(path: Path) -> int:
    """Tensors of a file that carry weights."""
    with safe_open(path, framework="pt") as file:
        return sum(not key.endswith(".alpha") for key in file.keys())  # noqa: SIM118 - not a mapping


def probes_of(case: Case, parts: Parts, attachments: dict[str, Attachment]) -> dict[str, probe.Probe]:
    """What the trained components answer, recorded as a run records it."""
    found = {}
    for name, attachment in attachments.items():
        inputs: Any
        if name in case.spec.denoisers:
            t = harness.levels(case, denoiser=name)
            x_t, _ = harness.noised(case, case.x0, harness.noise_like(case.x0), t)
            inputs = probe.DenoiserInputs(x_t, t, case.cond(), case.embedded_guidance)
        else:
            inputs = probe.encoder_inputs(parts[name], seed=0)
        found[name] = probe.record(parts[name], case.family, inputs, attachment, device=CPU, dtype=torch.float32)
    return found


@pytest.mark.parametrize("kind", ["lora", "dora", "lokr", "loha"])
def test_every_method_is_proven(case: Case, kind: str, tmp_path: Path) -> None:
    assert kind in case.spec.methods
    parts, attachments = trained_parts(case, kind, case.spec.trainable)
    paths = lora.save(tmp_path / "it.safetensors", adapters_of(attachments), case.spec)
    proof = prove.prove_lora(
        paths,
        case.family,
        Source(case.folder),
        probes_of(case, parts, attachments),
        device=CPU,
        dtype=torch.float32,
    )
    assert proof.modules == sum(len(adapter.layers) for adapter in adapters_of(attachments).values())


def test_full_weights_are_proven(case: Case, tmp_path: Path) -> None:
    parts, attachments = trained_parts(case, "full", list(case.spec.denoisers))
    source = Source(case.folder)
    folder = full.save(tmp_path / "it", parts, source, dtype=torch.float32)
    probes = probes_of(case, parts, attachments)
    proof = prove.prove_full(folder, case.family, source, probes, device=CPU, dtype=torch.float32)
    assert proof.relative_error == 0.0


def test_a_damaged_file_is_refused(case: Case, tmp_path: Path) -> None:
    """One layer swapped for another's update: keys and shapes are right, the answers are not."""
    parts, attachments = trained_parts(case, "lora", list(case.spec.denoisers))
    paths = lora.save(tmp_path / "it.safetensors", adapters_of(attachments), case.spec, dtype=torch.float32)
    tensors = load_file(paths[0])
    key = next(key for key in tensors if key.endswith(("lora_B.weight", "lora_up.weight")))
    tensors[key] = -tensors[key]
    save_file(tensors, paths[0], {"format": "pt"})
    probes = probes_of(case, parts, attachments)
    with pytest.raises(ProofError, match="answers differently"):
        prove.prove_lora(paths, case.family, Source(case.folder), probes, device=CPU, dtype=torch.float32)
