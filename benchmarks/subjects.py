"""What the benchmarks train: small networks with random weights, and photographs that ship with scikit-image.

The tiny models of the test suite take milliseconds a step, where everything is overhead. These are the same
classes made wide enough that a step takes some tenths of a second on two cores.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from PIL import Image

from tests.families.tiny import flux, sdxl
from tests.families.tiny.parts import randomise_zeros, seeded
from tuner.config.load import Resolved, load_preset
from tuner.events import Emitter, JsonlSink
from tuner.families.base import Source, load_family
from tuner.memory.placement import place
from tuner.rundir import RunDir
from tuner.training.phases import PhaseLog
from tuner.training.run import prepare
from tuner.training.session import Session
from tuner.training.signals import StopRequest

SUBJECTS = {"flux": "flux1-dev", "sdxl": "sdxl-base"}
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
SIZE_PX = 256
TARGETS = ["to_k", "to_q", "to_v", "to_out.0"]


def build(name: str, folder: Path) -> Path:
    """Write the model of a subject in diffusers layout and return its folder."""
    target = folder / f"{name}-model"
    if target.exists():
        return target
    if name == "flux":
        flux.build("flux1-dev", target)
        _wide_flux().save_pretrained(target / "transformer")
    else:
        sdxl.build("sdxl-base", target)
        _wide_sdxl().save_pretrained(target / "unet")
    return target


def _wide_flux() -> Any:
    from diffusers import FluxTransformer2DModel

    with seeded(1):
        model = FluxTransformer2DModel(
            patch_size=1,
            in_channels=64,
            num_layers=3,
            num_single_layers=3,
            attention_head_dim=32,
            num_attention_heads=12,
            joint_attention_dim=flux.T5_WIDTH,
            pooled_projection_dim=flux.CLIP_WIDTH,
            guidance_embeds=True,
            axes_dims_rope=(8, 12, 12),
        )
        randomise_zeros(model)
    return model


def _wide_sdxl() -> Any:
    from diffusers import UNet2DConditionModel

    wide = {"block_out_channels": (64, 128, 128), "attention_head_dim": (4, 8, 8), "norm_num_groups": 16}
    with seeded(1):
        model = UNet2DConditionModel(**sdxl.unet_config(sdxl.LAYOUTS["sdxl-base"]) | wide)
        randomise_zeros(model)
    return model


def photographs(folder: Path) -> Path:
    """Write the photographs with a caption each and return their folder."""
    import skimage.data

    target = folder / "photographs"
    target.mkdir(exist_ok=True)
    for name in PHOTOGRAPHS:
        picture = Image.fromarray(getattr(skimage.data, name)())
        side = min(picture.size)
        picture.crop((0, 0, side, side)).resize((SIZE_PX, SIZE_PX)).save(target / f"{name}.png")
        (target / f"{name}.txt").write_text(f"a photograph: {name}")
    return target


def preset(name: str, folder: Path, steps: int) -> Path:
    """Write a preset that trains attention LoRA on a subject, batch size 1, without extras."""
    document = {
        "name": name,
        "model": {"id": SUBJECTS[name], "path": str(build(name, folder))},
        "method": {"kind": "lora", "rank": 8, "targets": TARGETS},
        "data": [{"path": str(photographs(folder)), "resolution_px": SIZE_PX}],
        "training": {"steps": steps, "learning_rate": 1e-4},
        "memory": {"device": "cpu"},
        "save": {"every_steps": 1_000_000, "prove": False},
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(document))
    return path


def prepared_session(name: str, folder: Path, steps: int) -> Session:
    """A session up to its first step, with its events written to a file as in a real run."""
    resolved: Resolved = load_preset(str(preset(name, folder, steps)))
    run = RunDir(folder / f"{name}-run")
    run.create()
    emitter = Emitter([JsonlSink(run.events)])
    placement = place(resolved.preset.memory, resolved.model)
    source = Source(resolved.model_folder, resolved.overrides)
    session = Session(
        resolved,
        load_family(resolved.model),
        source,
        placement,
        run,
        emitter,
        Accelerator(cpu=True, mixed_precision="no"),
        PhaseLog(emitter, placement.device, {}),
        StopRequest(emitter),
    )
    prepare(session)
    session.build()
    return session
