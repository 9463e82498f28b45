"""Where and in which type the parts of a run live, decided from the preset and this machine."""

from __future__ import annotations

import resource
from dataclasses import dataclass

import torch

from tuner.catalog.spec import ModelSpec
from tuner.config.schema import MemorySection
from tuner.errors import ConfigError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Placement:
    """The machine side of a run. ``reasons`` says why each value is what it is."""

    device: torch.device
    dtype: torch.dtype
    """Frozen weights and activations."""
    gradient_checkpointing: bool
    vae_tiling: bool
    reasons: dict[str, str]

    def settings(self) -> dict[str, object]:
        """The values as JSON."""
        return {
            "memory.device": str(self.device),
            "memory.dtype": next(name for name, dtype in DTYPES.items() if dtype == self.dtype),
            "memory.gradient_checkpointing": self.gradient_checkpointing,
            "memory.vae_tiling": self.vae_tiling,
        }


def place(memory: MemorySection, spec: ModelSpec) -> Placement:
    """Fill in what the preset leaves on ``auto``; raises ``ConfigError`` for a device that is not there."""
    reasons: dict[str, str] = {}

    def decide(name: str, given: object, automatic: object, why: str) -> object:
        reasons[f"memory.{name}"] = why if given == "auto" else "set in the preset"
        return automatic if given == "auto" else given

    found = _best_device()
    name = str(decide("device", memory.device, found, f"best device found is {found}"))
    if not _available(name):
        raise ConfigError(
            f"memory.device: this machine has no usable {name}",
            hint='leave memory.device on "auto", or check the driver with `python -c \'import torch; '
            "print(torch.cuda.is_available())'`",
        )
    on_gpu = name != "cpu"
    dtype = str(
        decide(
            "dtype",
            memory.dtype,
            "bf16" if on_gpu else "fp32",
            "bf16 halves the memory of the frozen weights" if on_gpu else "CPUs are exact and fast in fp32",
        )
    )
    checkpointing = decide(
        "gradient_checkpointing",
        memory.gradient_checkpointing,
        on_gpu,
        "saves most of the activation memory" if on_gpu else "no GPU memory to save",
    )
    tiling = decide(
        "vae_tiling",
        memory.vae_tiling,
        spec.modality == "video",
        "clips are large" if spec.modality == "video" else "single images fit",
    )
    return Placement(torch.device(name), DTYPES[dtype], bool(checkpointing), bool(tiling), reasons)


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def _available(name: str) -> bool:
    if name == "cuda":
        return torch.cuda.is_available()
    if name == "mps":
        return torch.backends.mps.is_available()
    return True


def peak_ram_gib() -> float:
    """Highest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def peak_vram_gib(device: torch.device) -> float | None:
    """Highest GPU memory allocated since the last ``reset_peak``; None without a GPU."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None


def reset_peak(device: torch.device) -> None:
    """Start a new measurement of the GPU's peak."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def release(device: torch.device) -> None:
    """Give cached GPU memory back after a part was dropped."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
