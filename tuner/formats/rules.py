"""Applies a family's name table to adapters, in both directions.

Legend: r rank, in and out features of a layer. A fused layer has the rows of its leaves one below the other.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tuner.catalog.spec import ModelSpec
from tuner.errors import ConfigError
from tuner.families.naming import KeyRules, Match
from tuner.methods.base import Layer

PAIRS = {"lora_B": "lora_A", "hada_w1_a": "hada_w1_b", "hada_w2_a": "hada_w2_b"}
"""Factors with the rows of the weight (out, r), and their partners with its columns (r, in)."""

ROW_VECTORS = ("magnitude", "dora_scale")
"""One number per row of the weight, (out,)."""

INSTEAD = 'set save.format to "diffusers", or leave these layers out of method.targets'


def rules_of(spec: ModelSpec) -> KeyRules | None:
    """The family's table; None where the original names are those of diffusers."""
    module_name = f"{spec.implementation.partition(':')[0].rpartition('.')[0]}.keys"
    if importlib.util.find_spec(module_name) is None:
        return None
    rules: KeyRules = importlib.import_module(module_name).NAMES
    return rules


def to_original(layers: Mapping[str, Layer], rules: KeyRules, rows: Mapping[str, int]) -> dict[str, Layer]:
    """Layers under their original names: renamed, fused, halves swapped.

    ``rows`` gives the output features of every diffusers layer: a leaf that was not trained still has its
    place in a fused one. Raises ``ConfigError`` for layers the original has no name for or cannot hold.
    """
    found: dict[str, Layer] = {}
    done: set[str] = set()
    for name, layer in layers.items():
        if name in done:
            continue
        match = rules.original(name)
        if match is None:
            raise ConfigError(f"{name} has no name outside diffusers", hint=INSTEAD)
        if match.fused:
            done.update(match.leaves)
            found[match.original] = _fused(match, layers, rows)
        else:
            found[match.original] = _swapped(layer, name) if match.swap else layer
    return found


def to_diffusers(layers: Mapping[str, Layer], rules: KeyRules, rows: Mapping[str, int]) -> dict[str, Layer]:
    """The inverse of ``to_original``.

    A fused layer whose row factors are block-diagonal is cut into its blocks; any other becomes leaves that
    share the column factors. Raises ``ConfigError`` for a name the table does not know.
    """
    found: dict[str, Layer] = {}
    for name, layer in layers.items():
        match = rules.diffusers(name)
        if match is None:
            raise ConfigError(f"{name} is no layer of this model", hint="was the file made for another model?")
        if match.fused:
            found.update(_split(match, layer, rows))
        else:
            found[match.leaves[0]] = _swapped(layer, name) if match.swap else layer
    return found


def _fused(match: Match, layers: Mapping[str, Layer], rows: Mapping[str, int]) -> Layer:
    sizes = [rows[leaf] for leaf in match.leaves]
    parts = [layers.get(leaf) for leaf in match.leaves]
    trained = [part for part in parts if part is not None]
    _require_rows(trained, match.original)
    if any(vector in trained[0] for vector in ROW_VECTORS) and len(trained) < len(parts):
        absent = [leaf for leaf, part in zip(match.leaves, parts, strict=True) if part is None]
        raise ConfigError(f"DoRA on {match.original} needs {', '.join(absent)} trained as well", hint=INSTEAD)
    joined: Layer = {}
    for up, down in PAIRS.items():
        if up in trained[0]:
            joined[up] = _block_diagonal([None if part is None else part[up] for part in parts], sizes)
            joined[down] = torch.cat([part[down] for part in trained])
    for vector in ROW_VECTORS:
        if vector in trained[0]:
            joined[vector] = torch.cat([part[vector] for part in trained])
    return joined


def _block_diagonal(blocks: Sequence[Tensor | None], sizes: Sequence[int]) -> Tensor:
    """(out_i, r_i) each -> (sum out_i, sum r_i); an absent block gives zero rows and no rank."""
    columns = [torch.zeros(size, 0) if block is None else block for block, size in zip(blocks, sizes, strict=True)]
    return torch.block_diag(*columns)


def _split(match: Match, layer: Layer, rows: Mapping[str, int]) -> dict[str, Layer]:
    _require_rows([layer], match.original)
    sizes = [rows[leaf] for leaf in match.leaves]
    owners = _block_columns(layer, sizes)
    found: dict[str, Layer] = {}
    for index, leaf in enumerate(match.leaves):
        part: Layer = {}
        for up, down in PAIRS.items():
            if up in layer:
                block = layer[up].split(sizes)[index]
                columns = slice(None) if owners is None else owners == index
                part[up], part[down] = block[:, columns], layer[down][columns]
        part |= {vector: layer[vector].split(sizes)[index] for vector in ROW_VECTORS if vector in layer}
        if owners is None or bool((owners == index).any()):
            found[leaf] = part
    return found


def _block_columns(layer: Layer, sizes: Sequence[int]) -> Tensor | None:
    """Which leaf each rank column belongs to, (r,); None unless every column touches exactly one leaf."""
    factors = [layer[up] for up in PAIRS if up in layer]
    touched = torch.stack([(factor != 0) for factor in factors]).any(dim=0)
    by_leaf = torch.stack([part.any(dim=0) for part in touched.split(list(sizes))])
    if not bool((by_leaf.sum(dim=0) == 1).all()):
        return None
    return by_leaf.int().argmax(dim=0)


def _swapped(layer: Layer, name: str) -> Layer:
    _require_rows([layer], name)
    return {
        key: torch.cat(tensor.chunk(2)[::-1]) if key in PAIRS or key in ROW_VECTORS else tensor
        for key, tensor in layer.items()
    }


def _require_rows(layers: Sequence[Layer], name: str) -> None:
    if any("lokr_w1" in layer for layer in layers):
        raise ConfigError(f"LoKr cannot be written for {name}: its rows cannot be joined or moved", hint=INSTEAD)
