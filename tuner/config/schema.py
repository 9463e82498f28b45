"""The preset: one JSON document that fully describes a run.

Unknown keys are refused, units stand in names, and every field's description is the help text shown
everywhere (``tuner schema``, the wizard, the documents). ``"auto"`` means: decided at launch, and recorded.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA_VERSION = 1

Auto = Literal["auto"]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]

METHOD_UNUSED: dict[str, frozenset[str]] = {
    "lora": frozenset({"factor"}),
    "dora": frozenset({"factor"}),
    "lokr": frozenset({"rslora", "rank_pattern"}),
    "loha": frozenset({"rslora", "rank_pattern", "factor"}),
    "full": frozenset({"rank", "alpha", "dropout", "rslora", "rank_pattern", "factor", "targets"}),
}
"""Options of `method` that have no effect with a kind, and are refused there."""


class Section(BaseModel):
    """Base of all sections: frozen, and closed to keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ModelSection(Section):
    """Which weights to train."""

    id: str
    """Model to train, as `tuner models` lists it, for example `flux1-dev`."""
    path: str | None = None
    """Local folder in diffusers layout that replaces the download."""
    revision: str | None = None
    """Branch, tag or commit of the hub repository; the catalogue's own by default."""
    components: dict[str, str] = {}
    """Single files or folders that replace components, for example `{"transformer": "my-flux.safetensors"}`."""


class MethodSection(Section):
    """What is trained, and how it is attached."""

    kind: Literal["lora", "dora", "lokr", "loha", "full"] = "lora"
    """`lora`, `dora`, `lokr` and `loha` train an adapter; `full` trains the weights themselves."""
    rank: Positive = 16
    """Inner size of the adapter: more learns more, and makes a larger file."""
    alpha: float | None = Field(default=None, gt=0)
    """Scale of the adapter is alpha / rank; equal to the rank when left out."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the adapter's inputs dropped in training."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead (rank-stabilised LoRA; lora and dora only)."""
    targets: list[str] | Literal["default"] = "default"
    """Modules to adapt: module-name endings or regular expressions; `default`: the model's attention and MLP layers."""
    rank_pattern: dict[str, Positive] = {}
    """Other ranks for modules whose name matches a regular expression (lora and dora only)."""
    factor: Annotated[int, Field(ge=-1)] = -1
    """Kronecker factor of LoKr; -1 picks the most even split."""
    train: list[str] | Literal["default"] = "default"
    """Components to train; `default` is every denoiser. Add `text_encoder` to train it along where the model allows."""

    @property
    def effective_alpha(self) -> float:
        """Alpha with its default filled in."""
        return float(self.rank) if self.alpha is None else self.alpha

    @model_validator(mode="after")
    def _options_have_effect(self) -> MethodSection:
        refused = sorted(METHOD_UNUSED[self.kind] & self.model_fields_set)
        if refused:
            raise ValueError(f"{', '.join(refused)} has no effect with kind '{self.kind}': remove it")
        return self


class CaptionSection(Section):
    """How captions are read and changed."""

    extension: str = ".txt"
    """Ending of the caption file beside each sample."""
    missing: Literal["error", "empty", "filename"] = "error"
    """What to do without a caption: stop, train with an empty one, or use the file's name."""
    trigger: str | None = None
    """Word put in front of every caption that does not contain it; recorded in the saved file."""
    prefix: str = ""
    """Text put before every caption."""
    suffix: str = ""
    """Text put after every caption."""
    dropout: Fraction = 0.0
    """Share of steps that train with an empty caption, which keeps guidance working."""


class DataSection(Section):
    """One source of training data."""

    path: str
    """Folder with images or clips, searched recursively; relative to the preset's own folder."""
    kind: Literal["auto", "images", "clips"] = "auto"
    """What to take from the folder; `auto` takes what the model can train."""
    role: Literal["train", "validation"] = "train"
    """`validation` samples are never trained; the validation loss is measured on them."""
    repeats: Positive = 1
    """How often each sample appears in an epoch."""
    resolution_px: Positive | list[Positive] | Auto = "auto"
    """Square root of the area to train at, or several; `auto` is the model's own."""
    bucketing: bool = True
    """Keep each sample's aspect ratio; off crops everything to a square."""
    frames: Positive | Auto = "auto"
    """Frames per clip; rounded down to the model's frame rule. `auto` is the model's own."""
    fps: Annotated[float, Field(gt=0)] | Auto = "auto"
    """Frame rate clips are resampled to; `auto` is the model's own."""
    references: list[str] = []
    """Folders of reference images, matched by file stem, for models that edit images."""
    masks: str | None = None
    """Folder of masks matched by file stem: white is learned, black is ignored."""
    captions: CaptionSection = CaptionSection()
    """How captions are read and changed."""


class OptimizerSection(Section):
    """The optimizer and its own options."""

    name: str = "adamw"
    """`adamw`, `adamw8bit`, `adafactor`, `lion`, `prodigy`, `schedule_free_adamw`, or any `package.Class`."""
    betas: tuple[float, ...] | None = None
    """Momentum terms; the optimizer's own when left out."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay."""
    eps: float | None = Field(default=None, gt=0)
    """Term that keeps divisions finite; the optimizer's own when left out."""
    args: dict[str, Any] = {}
    """Any further keyword of the optimizer's class."""


class ScheduleSection(Section):
    """How the learning rate moves."""

    name: Literal["constant", "linear", "cosine", "rex", "wsd"] = "constant"
    """Shape after the warm-up; `wsd` holds, then decays."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the rate rises from zero."""
    end_factor: Fraction = 0.0
    """Share of the learning rate left at the last step (linear, cosine, rex and wsd)."""
    decay_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    """Share of all steps that `wsd` spends decaying."""


class EmaSection(Section):
    """A moving average of the trained weights; saved and previewed in their place."""

    decay: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.999
    """Upper bound of the decay; early steps use (1 + n) / (10 + n)."""
    every_steps: Positive = 1
    """Update every so many steps."""


class TrainingSection(Section):
    """The loop."""

    steps: Positive = 1000
    """Optimizer steps in all."""
    batch_size: Positive = 1
    """Samples per forward pass on each device."""
    gradient_accumulation: Positive = 1
    """Forward passes per optimizer step."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """Learning rate of everything that has none of its own."""
    learning_rates: dict[str, Annotated[float, Field(ge=0)]] = {}
    """Learning rates by component, for example `{"text_encoder": 1e-5}`; 0 freezes."""
    optimizer: OptimizerSection = OptimizerSection()
    """The optimizer and its options."""
    schedule: ScheduleSection = ScheduleSection()
    """How the learning rate moves."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Gradients are scaled down to this norm; 0 turns clipping off."""
    bf16_update: Literal["stochastic", "kahan", "plain"] = "stochastic"
    """How bfloat16 weights take updates smaller than their precision (full fine-tunes)."""
    ema: EmaSection | None = None
    """Moving average of the trained weights; none by default."""
    seed: int = 0
    """Seed of everything random: data order, noise, timesteps, initial adapter weights."""


class TimestepSection(Section):
    """Which noise levels are trained. Levels run from 0 (clean) to 1 (noise)."""

    sampling: Literal["auto", "uniform", "logit_normal", "mode", "cosmap", "beta", "custom"] = "auto"
    """Distribution the levels are drawn from, before the shift; `auto` is the model's own."""
    mean: float = 0.0
    """Mean of `logit_normal`."""
    std: Annotated[float, Field(gt=0)] = 1.0
    """Standard deviation of `logit_normal`."""
    mode_scale: float = 1.29
    """Scale of `mode` (Stable Diffusion 3)."""
    beta: tuple[float, float] = (2.0, 2.0)
    """The two parameters of `beta`."""
    values: list[Fraction] = []
    """Levels of `custom`, drawn with equal probability; used as they are, without a shift."""
    shift: Annotated[float, Field(gt=0)] | Literal["auto", "resolution"] = "auto"
    """Moves levels towards noise: s' = shift * s / (1 + (shift - 1) * s). `resolution` follows the token count."""
    min: Fraction = 0.0
    """Lowest level after the shift: the shifted distribution is cut here, not clamped."""
    max: Fraction = 1.0
    """Highest level after the shift."""
    stratified: bool = True
    """Spread the levels of one effective batch evenly over the distribution."""

    @model_validator(mode="after")
    def _interval_is_open(self) -> TimestepSection:
        if self.min >= self.max:
            raise ValueError(f"min ({self.min}) must be below max ({self.max})")
        if (self.sampling == "custom") != bool(self.values):
            raise ValueError("sampling 'custom' needs values, and values need sampling 'custom'")
        return self


class LossSection(Section):
    """How the prediction is compared with its target."""

    kind: Literal["mse", "huber", "smooth_l1"] = "mse"
    """`huber` is the pseudo-Huber loss 2c(sqrt(d^2 + c^2) - c); `smooth_l1` is 2(sqrt(d^2 + c^2) - c)."""
    c: Annotated[float, Field(gt=0)] = 0.1
    """Where huber and smooth_l1 turn from squared to linear."""


class ObjectiveSection(Section):
    """What the network is asked to predict, and how that is weighted."""

    prediction: Literal["auto", "flow", "epsilon", "v_prediction"] = "auto"
    """What the network answers; `auto` is the model's own."""
    timesteps: TimestepSection = TimestepSection()
    """Which noise levels are trained."""
    loss: LossSection = LossSection()
    """How the prediction is compared with its target."""
    weighting: Literal["none", "min_snr", "soft_min_snr", "debiased"] = "none"
    """Weight by noise level (epsilon and v_prediction models)."""
    snr_gamma: Annotated[float, Field(gt=0)] = 5.0
    """The gamma of `min_snr` and `soft_min_snr`."""
    zero_terminal_snr: bool | Auto = "auto"
    """Rescale the noise schedule so that the last step is pure noise (v_prediction); `auto` is the model's own."""
    guidance: float | Auto = "auto"
    """Guidance value shown to models that embed it (Flux.1-dev) while training."""


class MemorySection(Section):
    """How the run fits the machine."""

    device: Literal["auto", "cuda", "cpu", "mps"] = "auto"
    """Where to train; `auto` takes a GPU when there is one."""
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Type of the frozen weights and activations; `auto` is bf16 on a GPU and fp32 on a CPU."""
    gradient_checkpointing: bool | Auto = "auto"
    """Recompute activations in the backward pass; `auto` is on with a GPU."""
    vae_tiling: bool | Auto = "auto"
    """Encode and decode in tiles; `auto` is on for video."""


class PreviewPrompt(Section):
    """One preview."""

    prompt: str
    """What to draw."""
    negative_prompt: str = ""
    """What to avoid, where guidance uses a second prompt."""
    references: list[str] = []
    """Reference images for models that edit; relative to the preset's own folder."""
    seed: int | None = None
    """Seed of this preview; `preview.seed` when left out."""


class PreviewSection(Section):
    """Samples drawn with the weights as they are."""

    prompts: list[str | PreviewPrompt] = []
    """Prompts to draw; none turns previews off."""
    every_steps: Annotated[int, Field(ge=0)] = 0
    """Draw every so many steps, besides before the first and after the last; 0 only then."""
    steps: Positive | Auto = "auto"
    """Sampling steps; `auto` is the model's own."""
    guidance_scale: float | Auto = "auto"
    """Guidance scale; `auto` is the model's own."""
    width_px: Positive | Auto = "auto"
    """Width; `auto` is the training resolution."""
    height_px: Positive | Auto = "auto"
    """Height; `auto` is the training resolution."""
    frames: Positive | Auto = "auto"
    """Frames of a clip; `auto` is 1 for image models and the training length for video."""
    seed: int = 42
    """Seed of the starting noise: fixed, so that previews differ only by what was learned."""


class ValidationSection(Section):
    """Loss on samples that are never trained."""

    share: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the training samples held out, besides datasets with the role `validation`."""
    every_steps: Positive = 100
    """Measure every so many steps, besides before the first and after the last."""
    quantiles: Positive = 4
    """Noise levels measured: the middles of so many equal parts of the training distribution."""


class SaveSection(Section):
    """What is written."""

    every_steps: Positive = 250
    """Write a checkpoint every so many steps."""
    keep: Positive = 2
    """Checkpoints kept; older ones are removed."""
    format: Literal["auto", "comfyui", "diffusers", "kohya"] = "auto"
    """Layout of the LoRA; `auto` is the one that ComfyUI and diffusers both read."""
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Type of the saved tensors; `auto` is bf16."""
    prove: bool = True
    """Reload the finished file through the stock loader and compare."""


class Preset(Section):
    """One run."""

    schema_: str | None = Field(default=None, alias="$schema")
    """Where the JSON Schema is, for editors."""
    schema_version: int = SCHEMA_VERSION
    """Version of this format."""
    name: str | None = None
    """Name of the run and of the saved file; the preset's file name by default."""
    description: str = ""
    """A line for people."""
    model: ModelSection
    """Which weights to train."""
    method: MethodSection = MethodSection()
    """What is trained, and how it is attached."""
    data: list[DataSection] = Field(min_length=1)
    """Training data; several sources are mixed."""
    training: TrainingSection = TrainingSection()
    """The loop."""
    objective: ObjectiveSection = ObjectiveSection()
    """What the network is asked to predict."""
    memory: MemorySection = MemorySection()
    """How the run fits the machine."""
    preview: PreviewSection = PreviewSection()
    """Samples drawn with the weights as they are."""
    validation: ValidationSection = ValidationSection()
    """Loss on samples that are never trained."""
    save: SaveSection = SaveSection()
    """What is written."""
    track: list[Literal["tensorboard", "wandb"]] = []
    """Experiment trackers; none by default."""

    @model_validator(mode="after")
    def _something_to_train(self) -> Preset:
        if all(source.role == "validation" for source in self.data):
            raise ValueError("data: every source has the role 'validation'; nothing is left to train")
        return self
