"""Small parts that several families' tiny models share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random weights drawn inside depend on ``seed`` alone, and the global state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def randomise_zeros(module: nn.Module, std: float = 0.05) -> None:
    """Fill parameters that start at zero: they would hide missing gradients and wrong wiring behind them."""
    for parameter in module.parameters():
        if not parameter.any():
            parameter.normal_(std=std)


def byte_tokens() -> list[str]:
    """The 256 characters that byte-level tokenizers write bytes as, in a fixed order."""
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


def clip_tokenizer(length: int = 77) -> Any:
    """A CLIP tokenizer without merges: a token per byte, and one per byte that ends a word."""
    from transformers import CLIPTokenizer

    letters = byte_tokens()
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[], model_max_length=length)


def clip_encoder(tokenizer: Any, width: int, *, projection: int | None = None, seed: int = 4) -> Any:
    """A CLIP text encoder with three layers; with an output projection where ``projection`` gives its width."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=projection or width,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with seeded(seed):
        return (CLIPTextModel if projection is None else CLIPTextModelWithProjection)(config).eval()
