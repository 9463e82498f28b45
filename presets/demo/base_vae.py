"""The autoencoder of the demo base: 64 px drawings to 8 x 8 latents with 16 channels."""

from __future__ import annotations

from random import Random

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

from presets.demo.drawings import CONCEPT, SHAPES, draw, draw_variety, random_scene
from presets.demo.muon import Optimiser, split

LATENT_CHANNELS = 16
LEVELS = (16, 32, 64, 96)  # channels per level; three halvings, 64 px to 8
BATCH = 16
POOL = 16_000  # drawings to choose batches from


def to_tensor(images: list[Image.Image]) -> Tensor:
    """RGB images of one size as float32 (n, 3, height, width) in -1 to 1."""
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_images(pixels: Tensor) -> list[Image.Image]:
    """(n, 3, height, width) in -1 to 1 as RGB images; values outside are cut off."""
    levels = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return [Image.fromarray(image) for image in levels.permute(0, 2, 3, 1).numpy()]


def train_vae(steps: int, seed: int) -> AutoencoderKL:
    """Train an autoencoder from scratch.

    Half of what it sees are captioned scenes, stars among them, and half is a wide variety, so
    that it also reconstructs what the denoiser has yet to learn.

    Returns:
        The autoencoder in evaluation mode; its configuration holds the scaling and shift factors
        that give the latents of drawings zero mean and unit variance.
    """
    torch.manual_seed(seed)
    vae = _untrained()
    pool = _drawings(Random(seed), POOL)
    optimiser = Optimiser(*split(vae, r"conv_in|conv_out"), steps)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        chosen = torch.randint(0, POOL, (BATCH,), generator=generator)
        loss = _loss(vae, pool[chosen].float() / 127.5 - 1)
        optimiser.step(loss)
        if step % 100 == 99:
            print(f"vae step {step + 1}/{steps} loss {loss.item():.4f}", flush=True)
    optimiser.use_average()
    _normalise(vae.eval().requires_grad_(False), pool[:512].float() / 127.5 - 1)
    return vae


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Drawings (n, 3, 64, 64) in -1 to 1 to normalised latents (n, 16, 8, 8), both float32."""
    latents = vae.encode(pixels).latent_dist.mode()
    return (latents - vae.config.shift_factor) * vae.config.scaling_factor


def _untrained() -> AutoencoderKL:
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(LEVELS),
        up_block_types=("UpDecoderBlock2D",) * len(LEVELS),
        block_out_channels=LEVELS,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=2,  # few groups: a normalised group forgets its mean, which is the colour
        sample_size=64,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )
    with torch.no_grad():  # start with little noise: reconstruction is learned first
        vae.encoder.conv_out.bias[LATENT_CHANNELS:] -= 4
    return vae


def _drawings(rng: Random, count: int) -> Tensor:
    """uint8 drawings (count, 3, 64, 64): scenes and variety by turns."""
    shapes = (*SHAPES, CONCEPT)
    images = [draw(random_scene(rng, shapes), rng) if i % 2 else draw_variety(rng) for i in range(count)]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    return pixels.permute(0, 3, 1, 2).contiguous()


def _loss(vae: AutoencoderKL, x: Tensor) -> Tensor:
    """Reconstruction error that counts objects five times as much as the background.

    An object covers a tenth of the image; unweighted, its colour would be learned last.
    """
    with torch.autocast("cpu", torch.bfloat16):
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample
    ground = x.flatten(2).median(-1).values[..., None, None]
    weight = 1 + 4 * ((x - ground).abs().amax(1, keepdim=True) / 0.3).clamp(max=1)
    weight = weight / weight.mean((1, 2, 3), keepdim=True)
    error = y.float() - x
    reconstruction = (weight * (error.abs() + 0.5 * error.square())).mean()
    return reconstruction + 2e-6 * posterior.kl().float().mean()


@torch.no_grad()
def _normalise(vae: AutoencoderKL, pixels: Tensor) -> None:
    """Measure and store the factors that normalise latents."""
    latents = vae.encode(pixels).latent_dist.mode()
    vae.register_to_config(scaling_factor=1 / latents.std().item(), shift_factor=latents.mean().item())
