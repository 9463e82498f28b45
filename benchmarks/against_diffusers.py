"""tuner against diffusers' own example scripts: time per step and peak memory on the same model and photographs.

    python -m benchmarks.against_diffusers [--rounds 3] PATH_TO_DIFFUSERS_CHECKOUT [flux] [sdxl]

Needs torchvision and datasets, which the example scripts import. Both programs run as whole processes with few and
with many steps, in turns; the difference of the two times over the difference of the steps is the time per
step, free of start-up. Peak memory is the largest resident size of the longer process.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.subjects import PHOTOGRAPHS, SIZE_PX, SUBJECTS, build, photographs, preset

FEW, MANY = 4, 44
SCRIPTS = {
    "flux": "examples/dreambooth/train_dreambooth_lora_flux.py",
    "sdxl": "examples/text_to_image/train_text_to_image_lora_sdxl.py",
}


def example(name: str, checkout: Path, folder: Path, steps: int) -> list[str]:
    """The command line of diffusers' script for a subject."""
    pictures = photographs(folder)
    common = {
        "pretrained_model_name_or_path": build(name, folder),
        "output_dir": folder / f"{name}-example",
        "resolution": SIZE_PX,
        "train_batch_size": 1,
        "max_train_steps": steps,
        "checkpointing_steps": 1_000_000,
        "learning_rate": 1e-4,
        "lr_scheduler": "constant",
        "lr_warmup_steps": 0,
        "rank": 8,
        "mixed_precision": "no",
        "seed": 0,
    }
    if name == "flux":
        own = {
            "instance_data_dir": _without_captions(pictures),
            "instance_prompt": "a photograph",
            "guidance_scale": 1,
            "lora_layers": "attn.to_k,attn.to_q,attn.to_v,attn.to_out.0",
        }
        flags = ["--cache_latents"]
    else:
        own = {"train_data_dir": _image_folder(pictures)}
        flags = ["--center_crop"]
    options = [text for key, value in (common | own).items() for text in (f"--{key}", str(value))]
    return [sys.executable, str(checkout / SCRIPTS[name]), *options, *flags]


def _without_captions(pictures: Path) -> Path:
    target = pictures.with_name("instances")
    target.mkdir(exist_ok=True)
    for name in PHOTOGRAPHS:
        shutil.copy(pictures / f"{name}.png", target)
    return target


def _image_folder(pictures: Path) -> Path:
    target = _without_captions(pictures).with_name("imagefolder")
    target.mkdir(exist_ok=True)
    lines = ["file_name,text"]
    for name in PHOTOGRAPHS:
        shutil.copy(pictures / f"{name}.png", target)
        lines.append(f"{name}.png,a photograph: {name}")
    (target / "metadata.csv").write_text("\n".join(lines) + "\n")
    return target


def ours(name: str, folder: Path, steps: int) -> list[str]:
    """The command line of tuner for a subject."""
    output = folder / f"{name}-ours-{steps}"
    shutil.rmtree(output, ignore_errors=True)
    path = preset(name, folder, steps)
    return [sys.executable, "-m", "cli.main", "run", str(path), "--output", str(output), "--quiet"]


def measure(command: list[str]) -> tuple[float, float]:
    """Wall seconds and peak resident GiB of one process."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{errors.decode()[-3000:]}")
    return time.perf_counter() - started, usage.ru_maxrss / 2**20


def compare(name: str, checkout: Path, folder: Path, rounds: int) -> None:
    """Measure both programs in turns and print the medians and their ratio."""
    steps: dict[str, list[float]] = {"tuner": [], "diffusers": []}
    peaks: dict[str, list[float]] = {"tuner": [], "diffusers": []}
    for _ in range(rounds):
        for program in steps:
            seconds = {}
            for count in (FEW, MANY):
                command = ours(name, folder, count) if program == "tuner" else example(name, checkout, folder, count)
                seconds[count], peak = measure(command)
            steps[program].append((seconds[MANY] - seconds[FEW]) / (MANY - FEW))
            peaks[program].append(peak)
    for label, values in (("s/step", steps), ("peak GiB", peaks)):
        tuner, diffusers = (statistics.median(values[program]) for program in ("tuner", "diffusers"))
        print(f"{name}: {label:8} tuner {tuner:.4f}   diffusers {diffusers:.4f}   ratio {tuner / diffusers:.3f}")


def main() -> None:
    """Parse the arguments and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("names", nargs="*", default=[])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TUNER_CACHE"] = str(Path(folder) / "cache")
        os.environ["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
        for name in arguments.names or list(SUBJECTS):
            compare(name, arguments.checkout, Path(folder), arguments.rounds)


if __name__ == "__main__":
    main()
