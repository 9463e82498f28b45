"""Proof that a finished file is what was trained: loaded by the stock loader into a fresh copy, it answers alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tuner.errors import ConfigError, ProofError
from tuner.families.base import Family, Source
from tuner.formats import layouts, loaders
from tuner.formats.probe import Probe
from tuner.methods.base import Layer

TOLERANCES = {torch.bfloat16: 5e-2, torch.float16: 5e-2, torch.float32: 1e-3}
"""Largest accepted |fresh - trained| / |trained - base|, by the coarser of file and computation."""

KEPT = "the checkpoint is kept; please report this with the run's log"


@dataclass(frozen=True)
class Proof:
    """How a file was proven."""

    loader: str
    modules: int
    """Layers that carry an update."""
    update_norm: float
    """Frobenius norm of the change of all weights together."""
    relative_error: float
    """Worst component: |fresh - trained| / |trained - base| of the outputs."""


@dataclass(frozen=True)
class _Bench:
    """Where fresh components come from, and where they are run."""

    family: Family
    source: Source
    device: torch.device
    dtype: torch.dtype

    def fresh(self, name: str) -> nn.Module:
        with loaders.strict_loading():
            module: nn.Module = self.family.load(name, self.source, self.dtype)
        # The loaders may keep quiet about the second file of a process that lacks something.
        absent = [key for key, parameter in module.named_parameters() if parameter.is_meta]
        if absent:
            raise ProofError(f"{name} lacks {len(absent)} weights, for example {absent[0]}", hint=KEPT)
        return module.to(self.device)

    @torch.no_grad()
    def answer(self, module: nn.Module, probe: Probe) -> Tensor:
        return probe.inputs.run(module.to(self.device).eval(), self.family, self.device, self.dtype)


def prove_lora(
    paths: Sequence[Path],
    family: Family,
    source: Source,
    reference: Mapping[str, Probe],
    *,
    format: layouts.Format = "auto",
    device: torch.device,
    dtype: torch.dtype,
) -> Proof:
    """Prove adapter files, as ``formats.lora.save`` wrote them for the components of ``reference``.

    ``device`` and ``dtype`` are those the probes were recorded with. The components are loaded from ``source``
    anew, for one file at a time. Raises ``ProofError``: unreadable file, values that are not finite, missing or
    unexpected keys, an update of zero, or outputs that differ.
    """
    layout = layouts.choose(format, family.spec)
    files = layouts.files_of(reference, family.spec)
    if len(paths) != len(files):
        raise ProofError(f"{len(paths)} files were written where {len(files)} were expected", hint=KEPT)
    bench = _Bench(family, source, device, dtype)
    found = [
        _prove_file(path, bench, {name: reference[name] for name in components}, layout)
        for path, (_, components) in zip(paths, files, strict=True)
    ]
    return _joined(found)


def prove_full(
    path: Path,
    family: Family,
    source: Source,
    reference: Mapping[str, Probe],
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Proof:
    """Prove a folder, as ``formats.full.save`` wrote it: its components are loaded and compared with the base's.

    Raises ``ProofError`` as ``prove_lora`` does.
    """
    saved, base = _Bench(family, Source(path), device, dtype), _Bench(family, source, device, dtype)
    return _joined([_prove_component(name, probe, saved, base) for name, probe in reference.items()])


def _prove_component(name: str, probe: Probe, saved: _Bench, base: _Bench) -> Proof:
    path = saved.source.locate(name)[0] / name
    fresh = saved.fresh(name)
    parameters = dict(fresh.named_parameters())
    _require_finite(parameters, path)
    answer = saved.answer(fresh, probe)
    fresh.to("cpu")
    before = base.fresh(name)
    untrained = base.answer(before, probe)
    squares = (
        (parameters[key].float() - parameter.detach().cpu().float()).square().sum()
        for key, parameter in before.named_parameters()
    )
    update = float(sum(float(square) for square in squares)) ** 0.5
    error = _error(answer, probe.trained, untrained)
    _judge(error, update, _tolerance([saved.dtype, *(parameter.dtype for parameter in parameters.values())]), path)
    return Proof(f"{type(fresh).__name__}.from_pretrained", len(parameters), update, error)


def _prove_file(path: Path, bench: _Bench, probes: Mapping[str, Probe], layout: layouts.Layout) -> Proof:
    tensors = _read(path)
    _require_finite(tensors, path)
    layers = _layers(tensors, bench.family, probes, layout, path)
    parts = _fresh_parts(bench, probes)
    loader = _load(path, layers, parts, bench.family, layout)
    for name, probe in probes.items():
        loaders.cast_adapters(parts[name], bench.dtype)
        _require_same_layers(loaders.adapted(parts[name]), probe.layers, f"{name} after loading {path.name}")
    update = sum((probe.update_norm or 0.0) ** 2 for probe in probes.values()) ** 0.5
    error = max(_error(bench.answer(parts[name], probe), probe.trained, probe.base) for name, probe in probes.items())
    _judge(error, update, _tolerance([bench.dtype, *(tensor.dtype for tensor in tensors.values())]), path)
    return Proof(loader, sum(len(probe.layers) for probe in probes.values()), update, error)


def _load(
    path: Path,
    layers: Mapping[str, dict[str, Layer]],
    parts: Mapping[str, nn.Module],
    family: Family,
    layout: layouts.Layout,
) -> str:
    lycoris = any(key.startswith(("lokr", "hada")) for f in layers.values() for layer in f.values() for key in layer)
    try:
        with loaders.strict_loading():
            if lycoris:
                return loaders.load_lycoris(layers, parts)
            return loaders.load_stock(path, layers, parts, family, layout)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ProofError(f"the stock loader refuses {path.name}: {error}", hint=KEPT) from error


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ProofError(f"{path} cannot be read back: {error}", hint=KEPT) from error


def _require_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    wrong = [key for key, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if wrong:
        raise ProofError(
            f"{len(wrong)} tensors of {path.name} hold values that are not finite, for example {wrong[0]}", hint=KEPT
        )


def _layers(
    tensors: Mapping[str, Tensor], family: Family, probes: Mapping[str, Probe], layout: layouts.Layout, path: Path
) -> dict[str, dict[str, Layer]]:
    try:
        layers = layouts.read(tensors, family.spec, layout, {name: probe.rows for name, probe in probes.items()})
    except ConfigError as error:
        raise ProofError(f"{path.name}: {error.message}", hint=KEPT) from error
    for name, probe in probes.items():
        _require_same_layers(frozenset(layers[name]), probe.layers, f"{path.name}, {name}")
    return layers


def _require_same_layers(found: frozenset[str], expected: frozenset[str], where: str) -> None:
    missing, unexpected = sorted(expected - found), sorted(found - expected)
    if missing or unexpected:
        raise ProofError(
            f"{where}: {len(missing)} of {len(expected)} trained layers are missing {missing[:3]}, "
            f"{len(unexpected)} are unexpected {unexpected[:3]}",
            hint=KEPT,
        )


def _fresh_parts(bench: _Bench, probes: Mapping[str, Probe]) -> dict[str, nn.Module]:
    """The components to load into; stock loaders want a denoiser even for a file that holds none."""
    names, denoisers = list(probes), bench.family.spec.denoisers
    if not any(name in denoisers for name in names):
        names.append(next(iter(denoisers)))
    return {name: bench.fresh(name) for name in names}


def _error(fresh: Tensor, trained: Tensor, base: Tensor | None) -> float:
    if base is None:
        raise ProofError("nothing to compare with: the answer of the base model was not recorded", hint=KEPT)
    difference, learned = float((fresh - trained).norm()), float((trained - base).norm())
    if difference == 0.0:
        return 0.0
    return difference / learned if learned > 0.0 else float("inf")


def _tolerance(dtypes: Sequence[torch.dtype]) -> float:
    return max(TOLERANCES[dtype] for dtype in dtypes if dtype in TOLERANCES)


def _judge(error: float, update_norm: float, tolerance: float, path: Path) -> None:
    if update_norm == 0.0:
        raise ProofError(
            f"{path.name} changes nothing: the update is zero",
            hint="train for more steps or with a higher training.learning_rate",
        )
    # Also refuses an error that is not a number.
    if not error <= tolerance:
        raise ProofError(
            f"{path.name} loads, but the model then answers differently: relative error {error:.3g}, "
            f"accepted are {tolerance:.3g}",
            hint=KEPT,
        )


def _joined(proofs: Sequence[Proof]) -> Proof:
    return Proof(
        loader=", ".join(dict.fromkeys(proof.loader for proof in proofs)),
        modules=sum(proof.modules for proof in proofs),
        update_norm=sum(proof.update_norm**2 for proof in proofs) ** 0.5,
        relative_error=max(proof.relative_error for proof in proofs),
    )
