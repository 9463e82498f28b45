"""The shape of ``spec.toml``: what is known about a family and its models without importing torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Prediction = Literal["flow", "epsilon", "v_prediction"]
Role = Literal["denoiser", "vae", "text_encoder", "tokenizer", "scheduler", "image_encoder", "processor"]


class Facts(BaseModel):
    """Base: closed to unknown keys, so that a typing error in a spec is found by the test suite."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ComponentSpec(Facts):
    """One part of the pipeline, stored in a sub-folder of the same name."""

    cls: str = Field(alias="class")
    """Dotted class, for example `diffusers.FluxTransformer2DModel`."""
    role: Role
    """What the component is for; decides in which phase it is loaded."""
    trainable: bool = False
    """Whether `method.train` may name it (denoisers always may)."""
    blocks: list[str] = []
    """The repeated blocks, for checkpointing: regular expressions for names of blocks, or of lists of blocks."""
    keep_fp32: list[str] = []
    """Parts of module names kept in float32 when the rest is not."""
    sigma_min: float = 0.0
    """Lowest noise level this denoiser is responsible for (models with several denoisers)."""
    sigma_max: float = 1.0
    """Highest noise level this denoiser is responsible for."""
    label: str = ""
    """Short name in file names, for example `high_noise`."""
    lora_targets: list[str] = []
    """Default adapter targets: a regular expression each, matched against the whole module name."""


class LatentGeometry(Facts):
    """How pixels become latents."""

    channels: int
    spatial: int
    """Pixels per latent, along height and width."""
    temporal: int = 1
    """Frames per latent frame after the first: clips have `temporal * k + 1` frames."""
    divisible_px: int
    """Heights and widths must be multiples of this."""
    tokens_px: int
    """Pixels per denoiser token along each side, for resolution-dependent shifts."""


class ShiftSpec(Facts):
    """Default shift of the noise levels (flow models).

    `resolution`: s' = e^mu / (e^mu + 1/s - 1) with mu linear in the token count through (base_tokens,
    base_shift) and (max_tokens, max_shift).
    """

    kind: Literal["none", "constant", "resolution"] = "none"
    value: float = 1.0
    base_tokens: int = 256
    max_tokens: int = 4096
    base_shift: float = 0.5
    max_shift: float = 1.15


class NoiseSchedule(Facts):
    """The discrete schedule of epsilon and v_prediction models."""

    num_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    kind: Literal["scaled_linear", "linear"] = "scaled_linear"
    zero_terminal_snr: bool = False


class ObjectiveSpec(Facts):
    """What the network predicts, and the sampling it was made for."""

    prediction: Prediction
    sampling: Literal["uniform", "logit_normal"] = "uniform"
    shift: ShiftSpec = ShiftSpec()
    schedule: NoiseSchedule = NoiseSchedule()
    guidance: float | None = None
    """Guidance value embedded while training; None for networks without that input."""


class SamplingSpec(Facts):
    """How previews are drawn."""

    steps: int
    guidance_scale: float
    """Passed as `guidance_argument`."""
    guidance_argument: str = "guidance_scale"
    extra: dict[str, Any] = {}
    """Further keywords of the pipeline's call."""


class SaveSpec(Facts):
    """What the finished file looks like."""

    auto: Literal["comfyui", "diffusers", "kohya"]
    """The layout that ComfyUI and diffusers both read."""
    architecture: str
    """modelspec.architecture, without `/lora`."""
    base_version: str
    """ss_base_model_version."""
    mixin: bool = True
    """Whether the stock pipeline has `load_lora_weights`."""


class DownloadSpec(Facts):
    """What must be fetched from the hub."""

    repo: str
    revision: str | None = None
    patterns: list[str]
    """Only files that match are needed."""
    gated: bool = False
    size_gib: float | None = None


class ModelSpec(Facts):
    """One model a person can pick. Everything left out is the family's."""

    id: str
    title: str
    modality: Literal["image", "video", "audio"] = "image"
    params: int
    """Parameters of one denoiser."""
    licence: str
    source: str
    """Where the facts come from."""
    download: DownloadSpec | None = None
    """None when the weights ship with the project."""
    bundled: str | None = None
    """Folder among the shipped presets that holds the weights."""
    pipeline: str
    """Pipeline class of diffusers."""
    components: dict[str, ComponentSpec]
    latents: LatentGeometry
    objective: ObjectiveSpec
    sampling: SamplingSpec
    save: SaveSpec
    resolution_px: int
    frames: int = 1
    fps: float | None = None
    text_tokens: int
    references: int = 0
    """How many reference images a sample may have; -1 any number."""
    methods: list[Literal["lora", "dora", "lokr", "loha", "full"]]
    defaults: dict[str, Any] = {}
    """Preset values this model works well with, in the preset's own shape."""
    family: str
    implementation: str

    @property
    def denoisers(self) -> dict[str, ComponentSpec]:
        """The denoisers, in spec order."""
        return self.of_role("denoiser")

    def of_role(self, *roles: Role) -> dict[str, ComponentSpec]:
        """The components with one of ``roles``, in spec order."""
        return {name: part for name, part in self.components.items() if part.role in roles}

    @property
    def trainable(self) -> list[str]:
        """Names that ``method.train`` may list."""
        return [name for name, part in self.components.items() if part.role == "denoiser" or part.trainable]

    @model_validator(mode="after")
    def _consistent(self) -> ModelSpec:
        if not self.denoisers:
            raise ValueError(f"{self.id}: no component has the role 'denoiser'")
        if (self.download is None) == (self.bundled is None):
            raise ValueError(f"{self.id}: needs either [download] or bundled")
        return self
