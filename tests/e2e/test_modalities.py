"""Whole runs of what differs most from one picture with a caption: reference images, masks, clips, two experts."""

import json

import av
import pytest
import skimage.data
from PIL import Image, ImageDraw
from safetensors import safe_open

from tests.families.tiny import flux, wan
from tuner.config.load import load_preset
from tuner.training.run import run_preset


@pytest.fixture(autouse=True)
def own_cache(cache_folder, monkeypatch):
    monkeypatch.setenv("TUNER_CACHE", str(cache_folder))


def photograph(name: str, side: int) -> Image.Image:
    return Image.fromarray(getattr(skimage.data, name)()).convert("RGB").resize((side, side))


def go(tmp_path, recorder, **preset):
    path = tmp_path / "preset.json"
    path.write_text(json.dumps({"name": "small", **preset}))
    return run_preset(load_preset(str(path)), tmp_path / "run", [recorder])


def test_kontext_learns_an_edit_from_pairs(tmp_path, recorder):
    flux.build("flux1-kontext-dev", tmp_path / "model")
    for folder in ("after", "before", "masks"):
        (tmp_path / folder).mkdir()
    for name in ("astronaut", "chelsea"):
        before = photograph(name, 96)
        before.save(tmp_path / "before" / f"{name}.jpg")
        before.convert("L").save(tmp_path / "after" / f"{name}.png")
        (tmp_path / "after" / f"{name}.txt").write_text("make it grey")
        mask = Image.new("L", before.size)
        ImageDraw.Draw(mask).rectangle((0, 0, 47, 95), fill=255)
        mask.save(tmp_path / "masks" / f"{name}.png")
    result = go(
        tmp_path,
        recorder,
        model={"id": "flux1-kontext-dev", "path": "model"},
        method={"kind": "lora", "rank": 2},
        data=[{"path": "after", "references": ["before"], "masks": "masks", "resolution_px": 64}],
        training={"steps": 2, "learning_rate": 1e-3},
        preview={
            "prompts": [{"prompt": "make it grey", "references": ["before/chelsea.jpg"]}],
            "steps": 1,
            "width_px": 64,
            "height_px": 64,
        },
    )
    assert result["proof"]["relative_error"] < 0.05
    with Image.open(tmp_path / "run" / "samples" / "step-000002-00.png") as picture:
        assert picture.size == (64, 64)


def write_clip(path, name: str, frames: int) -> None:
    """The photograph, sliding to the right."""
    whole = photograph(name, 96)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=16)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            picture = whole.crop((number, 0, number + 64, 48))
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode(None))


def test_wan_trains_both_experts_on_clips_and_pictures(tmp_path, recorder):
    wan.build("wan2.2-t2v-a14b", tmp_path / "model")
    data = tmp_path / "data"
    data.mkdir()
    for name in ("astronaut", "chelsea"):
        write_clip(data / f"{name}.mp4", name, frames=10)
        (data / f"{name}.txt").write_text(f"{name} slides to the right")
    photograph("coffee", 64).save(data / "coffee.png")
    (data / "coffee.txt").write_text("a cup of coffee")
    result = go(
        tmp_path,
        recorder,
        model={"id": "wan2.2-t2v-a14b", "path": "model"},
        method={"kind": "lora", "rank": 2},
        data=[{"path": "data", "resolution_px": 64, "frames": 9}],
        training={"steps": 6, "learning_rate": 1e-3},
        memory={"gradient_checkpointing": True},
        preview={"prompts": ["a cup slides"], "steps": 2, "width_px": 64, "height_px": 48, "frames": 5},
        validation={"share": 0.3},
        save={"dtype": "fp32"},
    )
    high, low = result["lora"]
    assert high.endswith("small_high_noise.safetensors") and low.endswith("small_low_noise.safetensors")
    ranges = []
    for path in (high, low):
        with safe_open(path, "pt") as file:
            ranges.append(file.metadata()["modelspec.timestep_range"])
            assert all(name.startswith("diffusion_model.blocks.") for name in file.keys())  # noqa: SIM118
    assert ranges == ["875,1000", "0,875"]
    assert result["proof"]["relative_error"] < 0.01
    with av.open(str(tmp_path / "run" / "samples" / "step-000006-00.mp4")) as clip:
        assert sum(1 for _ in clip.decode(video=0)) == 5
