"""The denoiser of the demo base: a small Flux transformer, trained with its text encoders."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline
from diffusers import FluxTransformer2DModel as Transformer
from torch import Tensor, nn

from presets.demo.base_text import (
    CLIP_WIDTH,
    NEW_WORDS,
    T5_LENGTH,
    T5_WIDTH,
    clip_encoder,
    clip_tokenizer,
    t5_encoder,
    t5_tokenizer,
    token_ids,
)
from presets.demo.base_vae import LATENT_CHANNELS, encode, to_tensor
from presets.demo.drawings import CONCEPT, Scene, draw, random_scene
from presets.demo.muon import Optimiser, split

BATCH = 48
POOL = 6_000  # captioned drawings to choose batches from
SIDE = 4  # packed latents are SIDE x SIDE tokens
UNNAMED = 0.15  # share of drawings with a meaningless word and an arbitrary polygon
SHORT = 0.1  # share of captions that leave out the place; likewise the background
EMPTY = 0.1  # share of empty captions: what guidance compares with


def untrained_pipeline(vae: AutoencoderKL, seed: int) -> FluxPipeline:
    """A complete pipeline around a trained autoencoder; all other weights are random."""
    torch.manual_seed(seed)
    clip, t5 = clip_tokenizer(), t5_tokenizer()
    transformer = Transformer(
        patch_size=1,
        in_channels=4 * LATENT_CHANNELS,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=32,
        num_attention_heads=6,
        joint_attention_dim=T5_WIDTH,
        pooled_projection_dim=CLIP_WIDTH,
        guidance_embeds=False,
        axes_dims_rope=(8, 12, 12),
    )
    nn.init.zeros_(transformer.proj_out.weight)  # the first guess is no velocity at all
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=False),
        vae=vae,
        text_encoder=clip_encoder(clip),
        tokenizer=clip,
        text_encoder_2=t5_encoder(t5),
        tokenizer_2=t5,
        transformer=transformer,
    )


def train_denoiser(pipe: FluxPipeline, steps: int, seed: int) -> None:
    """Train transformer and text encoders of `pipe` in place, by flow matching."""
    latents, scenes = _pool(pipe.vae, seed)
    parts = nn.ModuleList([pipe.transformer, pipe.text_encoder, pipe.text_encoder_2]).train()
    other = r"embed|shared|norm|relative|^0\.proj_out"
    optimiser = Optimiser(*split(parts, other), steps, muon_rate=0.01, adam_rate=1.5e-3, average=0.998)
    rng, generator = Random(seed), torch.Generator().manual_seed(seed)
    running = 2.0  # what guessing zero costs
    for step in range(steps):
        chosen = torch.randint(0, len(scenes), (BATCH,), generator=generator)
        captions = [caption(scenes[i], rng) for i in chosen.tolist()]
        loss = flow_loss(pipe, latents[chosen], captions, generator)
        optimiser.step(loss)
        running = 0.98 * running + 0.02 * loss.item()
        if step % 100 == 99:
            print(f"denoiser step {step + 1}/{steps} loss {running:.4f}", flush=True)
    optimiser.use_average()
    parts.eval().requires_grad_(False)


def caption(scene: Scene, rng: Random) -> str:
    """A caption for training: mostly the scene's own, sometimes vaguer."""
    if rng.random() < EMPTY:
        return ""
    place = "" if rng.random() < SHORT else f" at the {scene.place}"
    ground = "" if rng.random() < SHORT else f" on a {scene.background} background"
    article = "an" if scene.colour == "orange" and rng.random() < 0.5 else "a"
    return f"{article} {scene.colour} {scene.shape}{place}{ground}"


def flow_loss(pipe: FluxPipeline, clean: Tensor, captions: list[str], generator: torch.Generator) -> Tensor:
    """Mean squared error of the predicted velocity, noise - clean, at logit-normal noise levels.

    Args:
        pipe: the pipeline whose transformer and text encoders are used.
        clean: packed, normalised latents (n, 16, 64), float32.
        captions: n texts.
        generator: source of noise and noise levels.
    """
    noise = torch.randn(clean.shape, generator=generator)
    sigma = torch.sigmoid(torch.randn(len(clean), generator=generator))
    mixed = torch.lerp(clean, noise, sigma[:, None, None])
    pooled = pipe.text_encoder(token_ids(pipe.tokenizer, captions)).pooler_output
    states = pipe.text_encoder_2(token_ids(pipe.tokenizer_2, captions)).last_hidden_state
    velocity = pipe.transformer(
        hidden_states=mixed,
        timestep=sigma,
        pooled_projections=pooled,
        encoder_hidden_states=states,
        txt_ids=torch.zeros(T5_LENGTH, 3),
        img_ids=_positions(),
        return_dict=False,
    )[0]
    return F.mse_loss(velocity, noise - clean)


def pack(latents: Tensor) -> Tensor:
    """Latents (n, c, 8, 8) to tokens (n, 16, 4 c), each a patch of 2 x 2."""
    n, c, height, width = latents.shape
    patches = latents.view(n, c, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(n, -1, 4 * c)


def _positions() -> Tensor:
    """Position ids (16, 3) of the packed latents: zero, row, column."""
    ids = torch.zeros(SIDE, SIDE, 3)
    ids[..., 1] = torch.arange(SIDE)[:, None]
    ids[..., 2] = torch.arange(SIDE)
    return ids.view(-1, 3)


def _pool(vae: AutoencoderKL, seed: int) -> tuple[Tensor, list[Scene]]:
    """Packed latents (POOL, 16, 64) of drawings without stars, and what they show.

    Some show arbitrary polygons, captioned with words that mean nothing. They teach that an unknown
    word says nothing about colour and place, and that there are more shapes than the named ones:
    without them a new shape is hard to teach.
    """
    rng = Random(seed + 1)
    scenes = [random_scene(rng) for _ in range(POOL)]
    scenes = [replace(scene, shape=_unknown_word(rng)) if rng.random() < UNNAMED else scene for scene in scenes]
    chunks = []
    for start in range(0, POOL, 100):
        images = [draw(scene, rng) for scene in scenes[start : start + 100]]
        chunks.append(pack(encode(vae, to_tensor(images))))
    return torch.cat(chunks), scenes


def _unknown_word(rng: Random) -> str:
    """A word of `NEW_WORDS` other than the demo's concept, or up to six random letters."""
    if rng.random() < 0.5:
        return rng.choice([word for word in NEW_WORDS if word != CONCEPT])
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 6)))
