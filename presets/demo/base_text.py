"""Tokenizers and text encoders of the demo base, with small vocabularies made on the spot."""

from __future__ import annotations

import string
from collections import Counter
from itertools import pairwise

import torch
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from presets.demo.drawings import BACKGROUNDS, COLOURS, CONCEPT, PLACES, SHAPES

CLIP_LENGTH = 32  # tokens, start and end included; rest padded
T5_LENGTH = 24  # tokens, end included; pass as `max_sequence_length` when sampling
CLIP_WIDTH = 64
T5_WIDTH = 128

# Single tokens. Those of NEW_WORDS never occur in the base's captions: what people may want to
# teach it. Everything else is spelled, letter by letter.
WORDS = ("a", "an", "at", "the", "on", "background", *SHAPES, *COLOURS, *PLACES, *BACKGROUNDS)
NEW_WORDS = (CONCEPT, "heart", "moon", "arrow", "flower", "house", "tree", "cat", "fish", "sun")


def clip_tokenizer() -> CLIPTokenizer:
    """A byte-level tokenizer; merges exist for `WORDS` and `NEW_WORDS` only."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = _merges([*WORDS, *NEW_WORDS])
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), *(a + b for a, b in merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=CLIP_LENGTH)


def t5_tokenizer() -> T5TokenizerFast:
    """A unigram tokenizer with all words and, far less likely, all printable ASCII characters."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -9.0)]
    pieces += [(f"▁{word}", -3.0) for word in (*WORDS, *NEW_WORDS)]
    pieces += [(c, -10.0) for c in string.printable if not c.isspace()]
    return T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=T5_LENGTH)


def clip_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained encoder; its pooled output (n, `CLIP_WIDTH`) goes to the denoiser."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=CLIP_WIDTH,
            intermediate_size=2 * CLIP_WIDTH,
            projection_dim=CLIP_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=CLIP_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def t5_encoder(tokenizer: T5TokenizerFast) -> T5EncoderModel:
    """An untrained encoder; its output (n, `T5_LENGTH`, `T5_WIDTH`) goes to the denoiser."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=T5_WIDTH,
            d_kv=32,
            d_ff=2 * T5_WIDTH,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            is_encoder_decoder=False,
            use_cache=False,
        )
    )


def token_ids(tokenizer: CLIPTokenizer | T5TokenizerFast, texts: list[str]) -> Tensor:
    """Padded and cut token ids (n, length), int64, as the Flux pipeline makes them."""
    length = T5_LENGTH if isinstance(tokenizer, T5TokenizerFast) else CLIP_LENGTH
    ids = tokenizer(texts, padding="max_length", max_length=length, truncation=True).input_ids
    return torch.tensor(ids)


def _merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte pair merges that make every word one token: the most frequent pair first.

    The tokenizers library can train these, but breaks ties differently in every process.
    """
    split = [[*word[:-1], f"{word[-1]}</w>"] for word in words]
    merges = []
    while pairs := Counter(pair for pieces in split for pair in pairwise(pieces)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for pieces in split:
            for i in range(len(pieces) - 1, 0, -1):
                if pieces[i - 1 : i + 1] == list(best):
                    pieces[i - 1 : i + 1] = ["".join(best)]
    return merges
