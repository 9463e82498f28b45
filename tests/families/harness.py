"""What the family tests have in common: a tiny model on disk, and an oracle that answers like a perfect network.

Every family gives `tests/families/tiny/<family>.py` with

    build(model_id, folder)   writes a tiny random-weight model of the real classes in diffusers layout
    Oracle                    a sub-class of `harness.Oracle` that reads the denoiser's inputs and forms its answer

Shape legend: B batch, C channels, F frames, H W pixels, h w latents.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from tuner.catalog.spec import ModelSpec
from tuner.families.base import Cond, Family, Geometry, Latents, Parts, Source, load_family

PROMPT = "a small red cat on a wooden table"
SEED = 7
TOLERANCE = 2e-4


class Oracle(ABC):
    """How one model's denoiser is spoken to. Written from the network's point of view, without the family's code."""

    height_px = 32
    width_px = 48
    """Not square, so that swapped sides are noticed."""
    frames = 1
    steps = 3
    tolerance = TOLERANCE
    """How far from x0 the stock pipeline may land, relative to its largest value."""
    without_gradient: Mapping[str, str] = {}
    """Regular expressions of parameters that can never get a gradient, each with the reason."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    @abstractmethod
    def read(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Noisy normalised latents (B, C, [F,] h, w) and their level (B,) from the denoiser's own inputs.

        The level is 0..1 for flow models, the timestep 0..num_timesteps-1 for the others.
        """

    @abstractmethod
    def answer(self, wanted: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the denoiser returns to say ``wanted``: in the objective's terms, shaped like the latents."""

    def final(self, output: Tensor) -> Tensor:
        """Normalised latents from what the pipeline returns for ``output_type="latent"``."""
        return output

    def call(self) -> dict[str, Any]:
        """Further keywords of the pipeline's call that the tiny size needs."""
        return {}

    def prompt_call(self) -> dict[str, Any]:
        """Further keywords when the pipeline encodes the prompt itself."""
        return {}

    def decoded(self, pixels: Tensor) -> Tensor:
        """The VAE's output as the pipeline returns it for ``output_type="pt"``: (B, [F,] 3, H, W) in [0, 1]."""
        pixels = (pixels / 2 + 0.5).clamp(0, 1)
        return pixels.transpose(1, 2) if pixels.ndim == 5 else pixels


@dataclass
class Case:
    """One model under test."""

    spec: ModelSpec
    folder: Path
    oracle: Oracle
    family: Family = field(init=False)

    def __post_init__(self) -> None:
        self.family = load_family(self.spec)

    @property
    def modality(self) -> str:
        return self.spec.modality

    @property
    def references(self) -> int:
        """References in a test sample: the model's number, two where there is no limit."""
        return 2 if self.spec.references < 0 else self.spec.references

    @property
    def embedded_guidance(self) -> float | None:
        return None if self.spec.objective.guidance is None else 2.0

    def load(self, *names: str, dtype: torch.dtype = torch.float32) -> Parts:
        """Fresh components; all of them without names."""
        source = Source(self.folder)
        return {name: self.family.load(name, source, dtype) for name in names or self.spec.components}

    def denoiser(self, name: str | None = None, dtype: torch.dtype = torch.float32) -> nn.Module:
        """A fresh denoiser, the first one without a name."""
        module: nn.Module = self.family.load(name or next(iter(self.spec.denoisers)), Source(self.folder), dtype)
        return module

    @cached_property
    def frozen(self) -> Parts:
        """Everything but the denoisers, shared between tests that do not change it."""
        return self.load(*(name for name in self.spec.components if name not in self.spec.denoisers))

    def picture(self, number: int, height_px: int | None = None, width_px: int | None = None) -> Image.Image:
        """A reproducible noise picture."""
        generator = torch.Generator().manual_seed(100 + number)
        shape = (height_px or self.oracle.height_px, width_px or self.oracle.width_px, 3)
        return Image.fromarray(torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).numpy())

    def pixels(self) -> Tensor:
        """One sample as the family's ``encode_media`` takes it."""
        frames = [pixels_of(self.picture(number)) for number in range(self.oracle.frames)]
        return torch.stack(frames, dim=2) if self.modality == "video" else frames[0]

    @cached_property
    def x0(self) -> Latents:
        """The sample's latents, batch of one."""
        with torch.no_grad():
            return self.family.encode_media(self.frozen["vae"], self.pixels())

    def cond(self, prompts: tuple[str, ...] = (PROMPT,), dtype: torch.dtype = torch.float32) -> Cond:
        """The condition of a batch, one sample per prompt, made as the trainer makes it."""
        encoders = {name: self.frozen[name] for name in self.spec.of_role("tokenizer", "processor", "text_encoder")}
        with torch.no_grad():
            tensors = self.family.collate(self.family.encode_text(encoders, prompts))
            references = [
                self.family.encode_reference(self.frozen["vae"], pixels_of(self.picture(50 + number)))
                for number in range(self.references)
            ]
        row = self.family.geometry_row(self.geometry)
        tensors |= {name: value.expand(len(prompts), *value.shape).clone() for name, value in row.items()}
        batched = [reference.expand(len(prompts), -1, -1, -1).clone() for reference in references]
        return Cond(tensors, batched).to(torch.device("cpu"), dtype)

    @property
    def geometry(self) -> Geometry:
        """Nothing was cut off: what pipelines assume."""
        height, width = self.oracle.height_px, self.oracle.width_px
        return Geometry(height, width, 0, 0, height, width)

    def pipeline(self, denoisers: Parts | None = None) -> Any:
        """The stock pipeline; fresh denoisers unless given."""
        parts = denoisers if denoisers is not None else self.load(*self.spec.denoisers)
        # Schedulers keep state between calls.
        scheduler = {name: copy.deepcopy(self.frozen[name]) for name in self.spec.of_role("scheduler")}
        pipeline = self.family.pipeline({**self.frozen, **scheduler, **parts})
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def sample(self, pipeline: Any, *, encode: bool = False, output_type: str = "latent", **more: Any) -> Tensor:
        """Draw once without classifier-free guidance; ``encode`` lets the pipeline encode the prompt itself."""
        if encode:
            text: dict[str, Any] = {"prompt": PROMPT, **self.oracle.prompt_call()}
        else:
            text = self.family.pipeline_inputs(self.cond_inputs(), None)
        if self.references:
            pictures = [self.picture(50 + number) for number in range(self.references)]
            text["image"] = pictures[0] if len(pictures) == 1 else pictures
        if self.modality == "video":
            text["num_frames"] = self.oracle.frames
        sampling = self.spec.sampling
        arguments = {
            **text,
            **self.family.size_inputs(self.oracle.width_px, self.oracle.height_px),
            **sampling.extra,
            sampling.guidance_argument: self.embedded_guidance or 1.0,
            "num_inference_steps": self.oracle.steps,
            "generator": torch.Generator().manual_seed(SEED),
            "output_type": output_type,
            **self.oracle.call(),
            **more,
        }
        with torch.no_grad():
            output: Tensor = pipeline(**arguments)[0]
        return output

    def cond_inputs(self) -> dict[str, Tensor]:
        """Only what ``encode_text`` gave: the pipeline adds sizes and references itself."""
        encoders = {name: self.frozen[name] for name in self.spec.of_role("tokenizer", "processor", "text_encoder")}
        with torch.no_grad():
            return self.family.collate(self.family.encode_text(encoders, [PROMPT]))


def load_case(spec: ModelSpec, folder: Path) -> Case:
    """Build the tiny model of ``spec`` in ``folder``."""
    tiny = importlib.import_module(f"tests.families.tiny.{spec.family}")
    tiny.build(spec.id, folder)
    return Case(spec, folder, tiny.Oracle(spec))


def pixels_of(picture: Image.Image) -> Tensor:
    """(1, 3, H, W) in [-1, 1]."""
    flat = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return flat.view(1, picture.height, picture.width, 3).permute(0, 3, 1, 2) / 127.5 - 1


def alphas_cumprod(spec: ModelSpec) -> Tensor:
    """Signal share by timestep, float64, of the published beta schedules (Ho et al. 2020; scaled_linear: LDM)."""
    schedule = spec.objective.schedule
    power = 0.5 if schedule.kind == "scaled_linear" else 1.0
    ends = schedule.beta_start**power, schedule.beta_end**power
    betas = torch.linspace(*ends, schedule.num_timesteps, dtype=torch.float64) ** (1 / power)
    shares = torch.cumprod(1 - betas, 0)
    if not schedule.zero_terminal_snr:
        return shares
    # Lin et al. 2023, algorithm 1: shift and scale the root so that it ends at zero.
    roots = shares.sqrt()
    roots = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    return roots**2


def signal_noise(spec: ModelSpec, level: Tensor, ndim: int) -> tuple[Tensor, Tensor]:
    """Factors a, b of x_t = a x0 + b noise for levels (B,), shaped (B, 1, ...)."""
    level = level.float().reshape(-1, *[1] * (ndim - 1))
    if spec.objective.prediction == "flow":
        return 1 - level, level
    # Beyond the schedule a network answers as at its ends.
    index = level.round().long().clamp(0, spec.objective.schedule.num_timesteps - 1)
    share = alphas_cumprod(spec)[index].float()
    return share.sqrt(), (1 - share).sqrt()


def target_of(spec: ModelSpec, x0: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """The objective's target. ``noise`` may be what a perfect network infers from x_t."""
    if spec.objective.prediction == "flow":
        return noise - x0
    if spec.objective.prediction == "epsilon":
        return noise
    a, b = signal_noise(spec, level, x0.ndim)
    return a * noise - b * x0


def unchanged(value: Tensor) -> Tensor:
    return value


@dataclass
class Perfect:
    """Stands in for a denoiser's forward: knows one x0, and infers the noise from the x_t and level it is given."""

    case: Case
    read_level: Callable[[Tensor], Tensor] = unchanged
    say: Callable[[Tensor], Tensor] = unchanged

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        oracle, spec = self.case.oracle, self.case.spec
        x_t, level = oracle.read(args, kwargs)
        level = self.read_level(level)
        x0 = self.case.x0[self.case.modality].expand_as(x_t)
        a, b = signal_noise(spec, level, x_t.ndim)
        # At level 0 there is no noise to infer; a mutant's scaled level may lie there.
        noise = (x_t - a * x0) / b.clamp(min=1e-6)
        return oracle.answer(self.say(target_of(spec, x0, noise, level)), args, kwargs)


@contextlib.contextmanager
def forward_replaced(denoisers: Mapping[str, nn.Module], stub: Callable[..., Any]) -> Iterator[None]:
    """Every denoiser answers with ``stub`` inside."""
    for module in denoisers.values():
        module.forward = stub  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in denoisers.values():
            del module.forward


class _Seen(Exception):
    """Ends a call that has shown what it had to."""


def inputs_of(module: nn.Module, run: Callable[[], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of the first call of ``module`` during ``run``."""
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def record(*args: Any, **kwargs: Any) -> Any:
        seen.append((args, kwargs))
        raise _Seen

    with forward_replaced({"": module}, record), contextlib.suppress(_Seen):
        run()
    assert seen, "the denoiser was not called"
    return seen[0]


def named_inputs(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by the forward's parameter names; nested tables flattened, empty entries left out."""
    bound = inspect.signature(type(module).forward).bind(module, *args, **kwargs).arguments
    flat: dict[str, Any] = {}
    for name, value in bound.items():
        if name in ("self", "return_dict") or value is None:
            continue
        if isinstance(value, Mapping):
            flat |= {f"{name}.{key}": entry for key, entry in value.items() if entry is not None}
        else:
            flat[name] = value
    return flat


def noise_like(latents: Latents, seed: int = SEED) -> Latents:
    """Standard normal noise of the latents' shapes."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(value.shape, generator=generator) for name, value in latents.items()}


def levels(case: Case, count: int = 1, denoiser: str | None = None) -> Tensor:
    """Levels (count,) inside the range of a denoiser, neither at its ends nor at its middle."""
    component = case.spec.components[denoiser or next(iter(case.spec.denoisers))]
    share = torch.linspace(0.3, 0.8, count)
    level = component.sigma_min + share * (component.sigma_max - component.sigma_min)
    if case.spec.objective.prediction == "flow":
        return level
    return (level * (case.spec.objective.schedule.num_timesteps - 1)).round()


def noised(case: Case, latents: Latents, noise: Latents, level: Tensor) -> tuple[Latents, Latents]:
    """x_t and target, by the definition and without the trainer's code."""
    x_t, target = {}, {}
    for name, x0 in latents.items():
        a, b = signal_noise(case.spec, level, x0.ndim)
        x_t[name] = a * x0 + b * noise[name]
        target[name] = target_of(case.spec, x0, noise[name], level)
    return x_t, target
