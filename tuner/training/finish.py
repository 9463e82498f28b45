"""The end of a run: write the file people came for, and prove that it loads and does what was trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import tuner
from tuner.config.load import Resolved
from tuner.events import Emitter, ProofDone, Warned
from tuner.families.base import Family, Source
from tuner.formats import full, lora, metadata, probe, prove
from tuner.formats.probe import DenoiserInputs, EncoderInputs, Probe
from tuner.formats.prove import Proof
from tuner.memory.placement import DTYPES, Placement, release
from tuner.methods.base import AdapterAttachment
from tuner.rundir import RunDir
from tuner.training.loop import Loop
from tuner.training.model import Networks
from tuner.training.phases import PhaseLog
from tuner.training.prepare import Dataset
from tuner.training.randomness import derived_seed, generator, noise_like


@dataclass
class Finisher:
    """Saves and proves the result of one run."""

    resolved: Resolved
    family: Family
    source: Source
    placement: Placement
    folder: RunDir
    log: PhaseLog
    emitter: Emitter

    def finish(self, networks: Networks, loop: Loop, dataset: Dataset) -> dict[str, Any]:
        """Write and prove; the networks are let go before the fresh copies are loaded."""
        preset = self.resolved.preset
        with self.log.phase("save") as phase:
            paths = self._save(networks, loop, dataset)
            size = sum(file.stat().st_size for path in paths for file in _files(path))
            phase.summary = f"{', '.join(path.name for path in paths)}, {size / 2**20:.1f} MiB"
        result: dict[str, Any] = {
            "model": self.resolved.model.id,
            "method": preset.method.kind,
            "artifact": _one_or_many(paths),
            "lora": None if preset.method.kind == "full" else _one_or_many(paths),
            "steps": loop.step,
            "final_loss": loop.last_loss,
            "proof": None,
        }
        if preset.save.prove:
            with self.log.phase("prove") as phase:
                proof = self._prove(paths, self._probes(networks, loop, dataset), networks)
                phase.summary = f"{proof.modules} layers through {proof.loader}, error {proof.relative_error:.1e}"
            result["proof"] = asdict(proof)
            self.emitter.emit(
                ProofDone(
                    path=str(paths[0]),
                    loader=proof.loader,
                    modules=proof.modules,
                    update_norm=proof.update_norm,
                    relative_error=proof.relative_error,
                )
            )
        else:
            self.emitter.emit(Warned(message="the file was not proven to load: save.prove is off"))
        return result

    @property
    def _dtype(self) -> torch.dtype:
        name = self.resolved.preset.save.dtype
        return DTYPES["bf16" if name == "auto" else name]

    def _save(self, networks: Networks, loop: Loop, dataset: Dataset) -> list[Path]:
        preset, spec = self.resolved.preset, self.resolved.model
        if preset.method.kind == "full":
            folder = self.folder.path / self.resolved.name
            return [full.save(folder, networks.trained, self.source, dtype=self._dtype)]
        adapters = {
            name: attachment.adapter()
            for name, attachment in networks.attachments.items()
            if isinstance(attachment, AdapterAttachment)
        }
        return lora.save(
            self.folder.path / f"{self.resolved.name}.safetensors",
            adapters,
            spec,
            format=preset.save.format,
            dtype=self._dtype,
            metadata=metadata.describe(spec, preset.method, self._facts(loop, dataset)),
        )

    def _facts(self, loop: Loop, dataset: Dataset) -> metadata.TrainingFacts:
        preset = self.resolved.preset
        micro_steps = loop.step * preset.training.gradient_accumulation
        triggers = [source.captions.trigger for source in preset.data if source.captions.trigger]
        largest = max(item.crop.width_px * item.crop.height_px for item in dataset.train)
        return metadata.TrainingFacts(
            title=self.resolved.name,
            version=tuner.__version__,
            date=datetime.now(UTC),
            steps=loop.step,
            epochs=loop.batches.epoch(micro_steps),
            samples=len({item.sample.path for item in dataset.train}),
            resolution_px=round(largest**0.5),
            learning_rate=preset.training.learning_rate,
            seed=preset.training.seed,
            triggers=triggers,
            description=preset.description,
            final_loss=loop.last_loss,
        )

    def _probes(self, networks: Networks, loop: Loop, dataset: Dataset) -> dict[str, Probe]:
        """What every trained component answers on fixed inputs, before it is let go."""
        device, dtype = self.placement.device, self.placement.dtype
        return {
            name: probe.record(
                networks.module(name),
                self.family,
                self._inputs(name, networks, loop, dataset),
                attachment,
                device=device,
                dtype=dtype,
                stored_as=self._dtype,
            )
            for name, attachment in networks.attachments.items()
        }

    def _inputs(self, name: str, networks: Networks, loop: Loop, dataset: Dataset) -> DenoiserInputs | EncoderInputs:
        seed = derived_seed(self.resolved.preset.training.seed, "proof", name)
        if name not in networks.denoisers:
            return probe.encoder_inputs(networks.module(name), seed)
        item = dataset.train[0]
        with torch.no_grad():
            batch = loop.math.batch([item], [item.sample.caption])
        expert = next(expert for expert in loop.experts.every if expert.name == name)
        t = loop.math.objective.quantile_levels(1, batch.tokens, expert.low, expert.high)
        device = self.placement.device
        noise = {key: value.to(device) for key, value in noise_like(batch.latents, generator(seed)).items()}
        x_t = loop.math.objective.noised(batch.latents, noise, t.to(device)).x_t
        return DenoiserInputs(x_t, t, batch.cond, loop.math.guidance)

    def _prove(self, paths: list[Path], probes: dict[str, Probe], networks: Networks) -> Proof:
        device, dtype = self.placement.device, self.placement.dtype
        # Room for the fresh copies; nothing is trained after this.
        for module in (*networks.denoisers.values(), *networks.trained.values()):
            module.to("meta")
        release(device)
        if self.resolved.preset.method.kind == "full":
            return prove.prove_full(paths[0], self.family, self.source, probes, device=device, dtype=dtype)
        return prove.prove_lora(
            paths,
            self.family,
            self.source,
            probes,
            format=self.resolved.preset.save.format,
            device=device,
            dtype=dtype,
        )


def _one_or_many(paths: list[Path]) -> str | list[str]:
    return str(paths[0]) if len(paths) == 1 else [str(path) for path in paths]


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
