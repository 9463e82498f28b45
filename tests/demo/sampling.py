"""How the demo's models are sampled in tests: the stock pipeline, as the preset's previews do it."""

from typing import Any

import torch


def drawn(pipe: Any, prompts: list[str], seed: int) -> list:
    """One RGB image of 64 x 64 pixels per prompt, all in one batch."""
    return pipe(
        prompts,
        negative_prompt=[""] * len(prompts),
        true_cfg_scale=2.5,
        num_inference_steps=20,
        height=64,
        width=64,
        max_sequence_length=24,
        generator=torch.Generator().manual_seed(seed),
    ).images
