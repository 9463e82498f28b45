"""Whole runs in this process, on the base model that ships with the project."""

import json
import os
import shutil
import signal

import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file, save_file

from tests.e2e.runs import ROOT, write_preset
from tuner.config.load import load_preset
from tuner.errors import ConfigError, DatasetError, DiskError, ExitCode, ProofError, Stopped, TrainingError
from tuner.rundir import RunDir
from tuner.training.run import run_preset


@pytest.fixture(autouse=True)
def own_cache(cache_folder, monkeypatch):
    monkeypatch.setenv("TUNER_CACHE", str(cache_folder))


@pytest.fixture
def run(tmp_path, recorder):
    """Run a small preset with changes in ``tmp_path/run``."""

    def go(output="run", sinks=None, overrides=(), **changes):
        preset = load_preset(str(write_preset(tmp_path, **changes)), overrides)
        return run_preset(preset, tmp_path / output, [recorder] if sinks is None else sinks)

    return go


def weights(folder):
    return load_file(folder / "small.safetensors")


def test_a_run_leaves_everything_it_promises(run, tmp_path, recorder):
    result = run(
        training={"steps": 6, "batch_size": 2, "learning_rate": 1e-3},
        preview={"prompts": ["a red star at the left on a white background"], "steps": 2},
        validation={"share": 0.2, "quantiles": 2},
    )
    folder = tmp_path / "run"
    for name in ("preset.json", "plan.json", "events.jsonl", "result.json", "small.safetensors"):
        assert (folder / name).stat().st_size > 0, name
    assert json.loads((folder / "result.json").read_text()) == json.loads(json.dumps(result))
    assert result["steps"] == 6 and result["final_loss"] > 0 and result["seconds"] > 0
    assert result["peak_ram_gib"] > 0.1 and result["resumed_from"] is None
    assert result["lora"] == str(folder / "small.safetensors")
    assert result["proof"]["modules"] > 0 and result["proof"]["relative_error"] < 0.05
    assert (folder / "samples" / "contact-sheet.png").exists()
    assert {event.step for event in recorder.of("sample_saved")} == {0, 6}
    assert [event.step for event in recorder.of("validation")] == [0, 6]
    assert recorder.of("validation")[1].baseline == recorder.of("validation")[0].loss
    assert [event.step for event in recorder.of("step")] == list(range(1, 7))
    assert [event.phase for event in recorder.of("phase_started") if event.phase != "preview"] == [
        "scan",
        "cache-text",
        "cache-latents",
        "place",
        "train",
        "save",
        "prove",
    ]


def test_caches_are_used_again_and_never_stale(run, tmp_path, recorder):
    pictures = tmp_path / "pictures"
    shutil.copytree(ROOT / "presets" / "demo" / "images", pictures)
    changes = {"data": [{"path": str(pictures)}], "training": {"steps": 1, "batch_size": 2}}
    encoded = []
    for number in range(3):
        if number == 1:
            first = sorted(pictures.glob("*.png"))[0]
            first.rename(first.with_name("renamed.png"))
            first.with_suffix(".txt").rename(first.with_name("renamed.txt"))
        if number == 2:
            with Image.open(pictures / "renamed.png") as picture:
                edited = ImageOps.invert(picture.convert("RGB"))
            edited.save(pictures / "renamed.png")
            (pictures / "renamed.txt").write_text("a caption nobody has seen")
        recorder.events.clear()
        run(output=f"run{number}", **changes)
        encoded.append({event.phase: event.total for event in recorder.of("phase_started")})
    assert encoded[1]["cache-latents"] == 0 and encoded[1]["cache-text"] == 0
    assert encoded[2]["cache-latents"] == 1 and encoded[2]["cache-text"] == 1


@pytest.mark.parametrize(
    "method",
    [
        {"kind": "dora", "rank": 4, "dropout": 0.0},
        {"kind": "lokr", "rank": 4, "dropout": 0.0},
        {"kind": "loha", "rank": 4, "dropout": 0.0},
    ],
    ids=lambda method: method["kind"],
)
def test_other_adapters_train_save_and_prove(run, method):
    save = {"every_steps": 2, "dtype": "fp32"} | ({"format": "diffusers"} if method["kind"] == "dora" else {})
    result = run(method=method, training={"steps": 3, "batch_size": 2, "learning_rate": 1e-2}, save=save)
    assert result["proof"]["update_norm"] > 0 and result["proof"]["relative_error"] < 1e-2


def test_a_full_fine_tune_saves_a_folder_the_stock_pipeline_loads(run):
    from diffusers import FluxPipeline

    result = run(
        method={"kind": "full"},
        training={"steps": 2, "batch_size": 2, "learning_rate": 1e-4},
        save={"every_steps": 2, "dtype": "fp32"},
    )
    pipeline = FluxPipeline.from_pretrained(result["artifact"])
    base = FluxPipeline.from_pretrained(ROOT / "presets" / "demo" / "base")
    moved = pipeline.transformer.state_dict()
    assert any(not torch.equal(moved[name], value) for name, value in base.transformer.state_dict().items())


def test_sigterm_saves_and_the_run_goes_on_bit_for_bit(run, tmp_path, recorder):
    class Interrupter:
        def handle(self, event, envelope):
            if event.type == "step" and event.step == 5:
                os.kill(os.getpid(), signal.SIGTERM)

        def close(self):
            pass

    run(output="whole")
    with pytest.raises(Stopped) as caught:
        run(sinks=[recorder, Interrupter()])
    assert caught.value.exit_code == ExitCode.SIGTERM and "step 5" in caught.value.message
    result = run()
    assert result["resumed_from"] == 5
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_finished_run_is_not_trained_again(run, recorder):
    first = run(training={"steps": 1, "batch_size": 2})
    recorder.events.clear()
    assert run(training={"steps": 1, "batch_size": 2}) == json.loads(json.dumps(first))
    assert not recorder.of("step")


def test_another_preset_in_the_same_folder_is_refused(run):
    run(training={"steps": 1, "batch_size": 2})
    with pytest.raises(ConfigError, match=r"different: training\.steps") as caught:
        run(training={"steps": 2, "batch_size": 2})
    assert "--output" in caught.value.hint


def test_a_folder_in_use_is_refused(run, tmp_path):
    folder = RunDir(tmp_path / "run")
    folder.create()
    with folder.locked(), pytest.raises(ConfigError, match="in use by another run"):
        run()


def test_several_processes_are_refused(run, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="one GPU"):
        run()


def test_a_loss_that_is_not_finite_names_sample_and_timestep(run, tmp_path, recorder):
    with pytest.raises(TrainingError, match=r"step \d+ is not finite for .*\.png at timestep"):
        run(training={"steps": 40, "batch_size": 2, "learning_rate": 1e30, "max_grad_norm": 0}, save={"every_steps": 1})
    assert recorder.of("error")[0].exit_code == ExitCode.UNEXPECTED
    kept = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert kept, "the last good checkpoint is kept"


def test_a_full_disk_while_saving_keeps_the_checkpoint_before(run, tmp_path, monkeypatch):
    import errno

    from tuner.training import checkpoints

    real = checkpoints.save_file

    def full_at_step_8(tensors, path, *rest):
        if "step-000008" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(tensors, path, *rest)

    run(output="whole")
    monkeypatch.setattr(checkpoints, "save_file", full_at_step_8)
    with pytest.raises(DiskError) as caught:
        run()
    assert caught.value.exit_code == ExitCode.DISK
    monkeypatch.setattr(checkpoints, "save_file", real)
    result = run()
    assert result["resumed_from"] == 4
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_file_that_does_not_load_as_trained_is_an_error(run, tmp_path, monkeypatch):
    from tuner.formats import lora

    real = lora.save

    def negated(*arguments, **options):
        paths = real(*arguments, **options)
        for path in paths:
            tensors = load_file(path)
            save_file({name: -value if "lora_B" in name else value for name, value in tensors.items()}, path)
        return paths

    monkeypatch.setattr(lora, "save", negated)
    with pytest.raises(ProofError):
        run()
    assert any((tmp_path / "run" / "checkpoints").iterdir())
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "does not exist|no such|missing"),
        (lambda folder: [file.unlink() for file in folder.iterdir()], "no (usable )?(images|samples|pictures)|empty"),
        (lambda folder: sorted(folder.glob("*.png"))[0].write_bytes(b"not a picture"), r"\.png"),
        (lambda folder: sorted(folder.glob("*.txt"))[0].unlink(), "caption"),
    ],
    ids=["missing", "empty", "unreadable", "no-caption"],
)
def test_bad_data_is_said_before_anything_starts(run, tmp_path, recorder, damage, message):
    pictures = tmp_path / "pictures"
    shutil.copytree(ROOT / "presets" / "demo" / "images", pictures)
    damage(pictures)
    with pytest.raises(DatasetError, match=f"(?i){message}") as caught:
        run(data=[{"path": str(pictures)}])
    assert caught.value.hint and caught.value.exit_code == ExitCode.DATASET
    assert not recorder.of("step")
