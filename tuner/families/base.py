"""The contract of a model family: everything that differs between architectures, and nothing else.

Shape legend: B batch, C channels, F frames, H W pixels, h w latent height and width, L text tokens, D width.

Noise, timesteps, x_t, targets, losses and the loop live outside families and exist once. A family only
loads parts, encodes, and translates one prediction between the objective's terms and its network's.
"""

from __future__ import annotations

import importlib
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tuner.catalog.spec import ModelSpec
from tuner.errors import AccessError, ConfigError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

Latents = dict[str, Tensor]
"""Normalised latents by modality (``image``, ``video``, ``audio``), batch first. Most models have one entry."""

Row = dict[str, Tensor]
"""What is cached for one sample or caption: named tensors without a batch dimension."""

Parts = dict[str, Any]
"""Loaded components by their name in the spec."""


@dataclass
class Cond:
    """What the denoiser is conditioned on."""

    tensors: dict[str, Tensor]
    """Named tensors, each (B, ...): prompt embeddings, masks, pooled embeddings, size ids."""
    references: list[Tensor] = field(default_factory=list)
    """The k-th entry holds the k-th reference of every sample as latents (B, C, h_k, w_k)."""

    def to(self, device: torch.device, dtype: torch.dtype) -> Cond:
        """A copy on ``device``; floating-point tensors in ``dtype``, others as they are."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype if tensor.is_floating_point() else None)

        return Cond({key: moved(value) for key, value in self.tensors.items()}, [moved(r) for r in self.references])


@dataclass(frozen=True)
class Geometry:
    """How a sample was cut out of its original; some networks are told (SDXL)."""

    original_height_px: int
    original_width_px: int
    top_px: int
    left_px: int
    height_px: int
    width_px: int


@dataclass(frozen=True)
class Source:
    """Where a model's weights are: a folder in diffusers layout, and single files that replace components."""

    folder: Path | None
    overrides: Mapping[str, Path] = field(default_factory=dict)

    def locate(self, part: str) -> tuple[Path, str | None]:
        """Path and sub-folder for ``from_pretrained`` (a file means ``from_single_file``)."""
        if part in self.overrides:
            return self.overrides[part], None
        if self.folder is None:
            raise AccessError(
                f"no weights for {part}",
                hint="set model.path to a folder in diffusers layout, or model.components",
            )
        return self.folder, part


class Family(ABC):
    """One architecture. Sub-classes are stateless apart from ``spec``."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    # --- loading -----------------------------------------------------------------------------------

    def load(self, part: str, source: Source, dtype: torch.dtype) -> Any:
        """Load one component on the CPU, in evaluation mode, without gradients.

        Networks get ``dtype``, except for modules their own class keeps in float32; tokenizers and
        schedulers ignore it. Raises ``AccessError`` when files are missing.
        """
        spec = self.spec.components[part]
        module_name, _, class_name = spec.cls.rpartition(".")
        component_class = getattr(importlib.import_module(module_name), class_name)
        path, subfolder = source.locate(part)
        options: dict[str, Any] = {}
        if issubclass(component_class, nn.Module):
            name = "dtype" if module_name.startswith("transformers") else "torch_dtype"
            options[name] = dtype
            options["variant"] = weights_variant(path / (subfolder or ""))
        try:
            if path.is_file():
                component = self.load_single_file(part, component_class, path, source, dtype)
            else:
                component = component_class.from_pretrained(
                    path, subfolder=subfolder or "", local_files_only=True, **options
                )
        except OSError as error:
            raise AccessError(
                f"cannot load {part} of {self.spec.id} from {path}: {error}",
                hint="check model.path: it must be a folder in diffusers layout",
            ) from error
        if isinstance(component, nn.Module):
            component.requires_grad_(False).eval()
        return component

    def load_single_file(self, part: str, component_class: type, path: Path, source: Source, dtype: torch.dtype) -> Any:
        """Load a component from one file; the configuration comes from the model folder."""
        if not hasattr(component_class, "from_single_file"):
            raise ConfigError(
                f"model.components.{part}: {component_class.__name__} cannot be loaded from a single file",
                hint="give a folder in diffusers layout instead",
            )
        if source.folder is None:
            raise ConfigError(
                f"model.components.{part}: a single file needs model.path for its configuration",
                hint="set model.path to a folder in diffusers layout",
            )
        return component_class.from_single_file(
            str(path), config=str(source.folder), subfolder=part, torch_dtype=dtype, local_files_only=True
        )

    # --- encoding ----------------------------------------------------------------------------------

    @abstractmethod
    def encode_text(
        self, encoders: Parts, captions: Sequence[str], references: Sequence[Sequence[Tensor]] | None = None
    ) -> list[Row]:
        """Encode captions; one cacheable row each. Differentiable, so that text encoders can be trained.

        ``encoders`` holds the tokenizers and text encoders. ``references`` gives each sample's reference
        images as (3, H, W) in [-1, 1], for models whose text condition depends on them.
        """

    @abstractmethod
    def encode_media(self, vae: nn.Module, pixels: Tensor) -> Latents:
        """Encode pixels in [-1, 1] to latents normalised as the denoiser expects them.

        ``pixels`` is (B, 3, H, W) for image models and (B, 3, F, H, W) for video models. Deterministic:
        the posterior's mode, so that the cache holds what any run would compute.
        """

    def encode_reference(self, vae: nn.Module, pixels: Tensor) -> Tensor:
        """Encode one reference image (B, 3, H, W) as the stock pipeline does; latents (B, C, h, w)."""
        raise ConfigError(f"{self.spec.id} takes no reference images", hint="remove data.references")

    def reference_size_px(self, width_px: int, height_px: int, target: Geometry) -> tuple[int, int]:
        """Width and height a reference of the given size is resized to."""
        return target.width_px, target.height_px

    def collate(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Batch cached rows; families with ragged rows pad here."""
        return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}

    def geometry_row(self, geometry: Geometry) -> Row:
        """Further condition tensors that follow from how a sample was cut; none for most networks."""
        return {}

    # --- predicting --------------------------------------------------------------------------------

    @abstractmethod
    def predict(self, denoiser: nn.Module, x_t: Latents, t: Tensor, cond: Cond, guidance: float | None) -> Latents:
        """One forward pass, in the objective's own terms.

        ``t`` is (B,) float32: the noise level in [0, 1] for flow models (1 is noise), the integer timestep
        for epsilon and v_prediction models. Flow models answer noise - data; others answer what their
        ``prediction`` says. The family packs, scales the timestep and flips the sign as its network wants.
        ``guidance`` is the embedded guidance value, None for networks without that input.
        """

    # --- sampling ----------------------------------------------------------------------------------

    def pipeline(self, parts: Parts) -> DiffusionPipeline:
        """The stock diffusers pipeline with ``parts``; components that are not given are None."""
        import diffusers

        pipeline_class = getattr(diffusers, self.spec.pipeline)
        return pipeline_class(**{name: parts.get(name) for name in self.spec.components}, **self.pipeline_config())

    def pipeline_config(self) -> dict[str, Any]:
        """Further arguments of the pipeline's constructor."""
        return {}

    def size_inputs(self, width_px: int, height_px: int) -> dict[str, Any]:
        """The pipeline's keywords that make it draw at exactly this size."""
        return {"width": width_px, "height": height_px}

    @abstractmethod
    def pipeline_inputs(self, cond: dict[str, Tensor], negative: dict[str, Tensor] | None) -> dict[str, Any]:
        """The pipeline's keywords for conditions encoded before: embeddings instead of a prompt."""


def weights_variant(folder: Path) -> str | None:
    """``fp16`` when a folder holds nothing else: repositories store weights twice, and one half is enough."""
    names = [path.name for path in folder.glob("*.safetensors")]
    half = [name for name in names if re.search(r"\.fp16(-\d+-of-\d+)?\.safetensors$", name)]
    return "fp16" if names and len(half) == len(names) else None


def load_family(spec: ModelSpec) -> Family:
    """The family object of a model."""
    module_name, _, class_name = spec.implementation.partition(":")
    family_class: type[Family] = getattr(importlib.import_module(module_name), class_name)
    return family_class(spec)
