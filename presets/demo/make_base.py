"""Train the demo base model from nothing and write it as a FluxPipeline folder.

    python -m presets.demo.make_base

makes `presets/demo/base` with seed 0: 1,200 steps for the autoencoder and 1,200 for the denoiser, about 15
minutes on two processor cores. The weights in the repository are what this command wrote; another version of
torch or another processor rounds otherwise and gives an equivalent model, not the same file.

The folder loads with `diffusers.FluxPipeline.from_pretrained` and is sampled at 64 x 64 pixels with
about 20 steps, `true_cfg_scale=2.5`, `negative_prompt=""` and `max_sequence_length=24`.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path
from random import Random

import torch
from diffusers import AutoencoderKL, FluxPipeline
from PIL.Image import Image

from presets.demo.base_denoiser import train_denoiser, untrained_pipeline
from presets.demo.base_text import T5_LENGTH
from presets.demo.base_vae import encode, to_images, to_tensor, train_vae
from presets.demo.drawings import SIZE, Scene, draw, scenes
from presets.demo.judge import accuracies

HERE = Path(__file__).parent


def main() -> None:
    """Run the command line."""
    options = _options()
    torch.set_num_threads(options.threads)
    start = time.perf_counter()
    if options.vae is None:
        vae = train_vae(options.vae_steps, options.seed)
    else:
        vae = AutoencoderKL.from_pretrained(options.vae).eval().requires_grad_(False)
    print(f"{time.perf_counter() - start:.0f} s; reconstruction {reconstruction(vae)}", flush=True)
    if options.vae_out is not None:
        vae.save_pretrained(options.vae_out)
    pipe = untrained_pipeline(vae, options.seed)
    train_denoiser(pipe, options.steps, options.seed)
    save(pipe, options.out)
    print(f"{time.perf_counter() - start:.0f} s; prompts {prompt_accuracy(options.out)}", flush=True)


def reconstruction(vae: AutoencoderKL, count: int = 128) -> dict[str, float]:
    """Peak signal-to-noise ratio in dB and the judge's accuracies on decoded true drawings."""
    wanted = list(scenes(1000, count))
    pixels = to_tensor([draw(scene, Random(i)) for i, scene in enumerate(wanted)])
    with torch.no_grad():
        latents = encode(vae, pixels) / vae.config.scaling_factor + vae.config.shift_factor
        decoded = vae.decode(latents).sample.clamp(-1, 1)
    psnr = float(10 * torch.log10(4 / (decoded - pixels).square().mean()))
    return {"psnr": round(psnr, 2), **accuracies(to_images(decoded), wanted)}


def sample(pipe: FluxPipeline, wanted: list[Scene], seed: int = 0) -> list[Image]:
    """Draw scenes in one batch with the settings the base is made for."""
    pipe.set_progress_bar_config(disable=True)
    return pipe(
        [scene.caption for scene in wanted],
        negative_prompt=[""] * len(wanted),
        true_cfg_scale=2.5,
        height=SIZE,
        width=SIZE,
        num_inference_steps=20,
        max_sequence_length=T5_LENGTH,
        generator=torch.Generator().manual_seed(seed),
    ).images


def prompt_accuracy(folder: Path, count: int = 64) -> dict[str, float]:
    """Share of samples, 0 to 1, that show what their prompt asks for, per field."""
    pipe = FluxPipeline.from_pretrained(folder, dtype=torch.float32)
    wanted = list(scenes(2000, count))
    return accuracies(sample(pipe, wanted), wanted)


def save(pipe: FluxPipeline, folder: Path) -> None:
    """Write a copy of the pipeline with float16 weights."""
    parts = {
        name: copy.deepcopy(part).half() if isinstance(part, torch.nn.Module) else part
        for name, part in pipe.components.items()
    }
    FluxPipeline(**parts).save_pretrained(folder)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the demo base model.")
    parser.add_argument("--out", type=Path, default=HERE / "base", help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vae-steps", type=int, default=1200)
    parser.add_argument("--steps", type=int, default=1200, help="steps of the denoiser")
    parser.add_argument("--vae", type=Path, help="folder of a trained autoencoder to use instead")
    parser.add_argument("--vae-out", type=Path, help="also write the autoencoder to this folder")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
