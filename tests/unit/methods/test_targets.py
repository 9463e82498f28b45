from __future__ import annotations

import pytest
import torch

from tuner.config.schema import MethodSection
from tuner.errors import ConfigError
from tuner.methods import targets

BLOCK_LAYERS = [
    "blocks.0.attn.to_q",
    "blocks.0.attn.to_out.0",
    "blocks.0.ff",
    "blocks.1.attn.to_q",
    "blocks.1.attn.to_out.0",
    "blocks.1.ff",
]


def test_default_targets_are_the_components_own(net, component):
    assert targets.resolve(net, MethodSection(), component) == BLOCK_LAYERS


def test_default_patterns_match_whole_names_only(net, component):
    narrow = component.model_copy(update={"lora_targets": ["ff", r"blocks\.0\.ff"]})
    assert targets.resolve(net, MethodSection(), narrow) == ["blocks.0.ff"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["to_out.0"], ["blocks.0.attn.to_out.0", "blocks.1.attn.to_out.0"]),
        ([r"blocks\.1\..*"], BLOCK_LAYERS[3:]),
        (["conv_in", "proj_out"], ["conv_in", "proj_out"]),
        (["ff"], ["blocks.0.ff", "blocks.1.ff"]),
    ],
)
def test_targets_are_endings_or_regular_expressions(net, component, given, expected):
    assert targets.resolve(net, MethodSection(targets=given), component) == expected


def test_an_ending_starts_at_a_dot(net, component):
    with pytest.raises(ConfigError):
        targets.resolve(net, MethodSection(targets=["roj_out"]), component)


def test_no_match_names_what_was_meant(net, component):
    with pytest.raises(ConfigError, match="no layer of Net") as error:
        targets.resolve(net, MethodSection(targets=["to_qq"]), component)
    assert "to_q" in error.value.hint


def test_norms_are_never_targets(net, component):
    with pytest.raises(ConfigError):
        targets.resolve(net, MethodSection(targets=["norm"]), component)


def test_a_broken_expression_is_a_preset_error(net, component):
    with pytest.raises(ConfigError, match="regular expression"):
        targets.resolve(net, MethodSection(targets=["blocks.("]), component)


def test_rank_pattern_first_match_wins(net):
    section = MethodSection(rank=4, rank_pattern={"attn": 2, r"blocks\.1": 8})
    assert targets.ranks(BLOCK_LAYERS, section) == {
        "blocks.0.attn.to_q": 2,
        "blocks.0.attn.to_out.0": 2,
        "blocks.0.ff": 4,
        "blocks.1.attn.to_q": 2,
        "blocks.1.attn.to_out.0": 2,
        "blocks.1.ff": 8,
    }


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (MethodSection(targets=["to_q", "to_kk"]), r"method\.targets: no layer matches 'to_kk'"),
        (MethodSection(rank_pattern={"nowhere": 4}), r"method\.rank_pattern: no layer matches 'nowhere'"),
    ],
)
def test_an_entry_that_matches_nothing_is_refused(net, section, message):
    with pytest.raises(ConfigError, match=message):
        targets.require_used([net], section)


def test_an_entry_may_be_meant_for_one_of_several_networks(net):
    targets.require_used(
        [net, torch.nn.ModuleDict({"q_proj": torch.nn.Linear(2, 2)})], MethodSection(targets=["q_proj"])
    )
