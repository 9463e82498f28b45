import math

import pytest
import torch

from tuner.errors import ConfigError
from tuner.objectives import shift

U = torch.linspace(0.001, 0.999, 401, dtype=torch.float64)


def test_noised_and_target(make):
    x0, noise = {"image": torch.full((2, 1, 2, 2), 2.0)}, {"image": torch.full((2, 1, 2, 2), -1.0)}
    noised = make("flow").noised(x0, noise, torch.tensor([0.25, 1.0]))
    assert noised.x_t["image"][:, 0, 0, 0].tolist() == [1.25, -1.0]
    assert (noised.target["image"] == -3.0).all()
    assert noised.weight.tolist() == [1.0, 1.0]


def test_everything_is_float32_and_every_modality_is_noised(make):
    latents = {"video": torch.ones(1, 2, 3, 4, 4).bfloat16(), "audio": torch.ones(1, 2, 5).bfloat16()}
    noise = {name: torch.zeros(value.shape) for name, value in latents.items()}
    noised = make("flow").noised(latents, noise, torch.tensor([0.25]))
    for name, value in latents.items():
        assert noised.x_t[name].dtype == noised.target[name].dtype == torch.float32
        assert noised.x_t[name].shape == value.shape
        assert (noised.x_t[name] == 0.75).all()


def test_levels_use_the_models_own_sampling_and_shift(make):
    spec = {"sampling": "logit_normal", "shift": {"kind": "constant", "value": 3.0}}
    levels = make("flow", spec).levels(torch.tensor([0.5]), tokens=64)
    assert levels.dtype == torch.float32
    assert levels.tolist() == pytest.approx([0.75])


def test_preset_overrides_sampling_and_shift(make):
    spec = {"sampling": "logit_normal", "shift": {"kind": "constant", "value": 3.0}}
    objective = make("flow", spec, timesteps={"sampling": "uniform", "shift": 1.0})
    assert objective.levels(torch.tensor([0.1]), tokens=64).tolist() == pytest.approx([0.1])


def test_resolution_shift_follows_the_tokens(make):
    objective = make("flow", timesteps={"shift": "resolution"})
    for tokens, mu in ((256, 0.5), (4096, 1.15)):
        expected = shift.apply(0.5, math.exp(mu))
        assert objective.levels(torch.tensor([0.5]), tokens).tolist() == pytest.approx([expected])


@pytest.mark.parametrize("sampling", ["uniform", "logit_normal", "mode", "cosmap", "beta"])
def test_min_and_max_cut_the_shifted_distribution(make, sampling):
    """Cut levels have the same density ratios as uncut ones; clamped levels would pile up at the ends."""
    spec = {"shift": {"kind": "constant", "value": 5.0}}
    whole = make("flow", spec, timesteps={"sampling": sampling})
    cut = make("flow", spec, timesteps={"sampling": sampling, "min": 0.6, "max": 0.9})
    drawn = whole.levels(torch.linspace(0.0, 1.0, 200_001, dtype=torch.float64)[1:-1], 64)
    inside = drawn[(drawn >= 0.6) & (drawn <= 0.9)]
    expected = torch.quantile(inside.double(), U)
    assert torch.allclose(cut.levels(U, 64).double(), expected, atol=2e-4)


def test_expert_ranges_partition_the_distribution(make):
    objective = make("flow", {"sampling": "logit_normal", "shift": {"kind": "constant", "value": 5.0}})
    shares = [objective.mass(0.0, 0.875, 64), objective.mass(0.875, 1.0, 64)]
    assert sum(shares) == pytest.approx(1.0)
    levels = objective.levels(U, 64)
    assert float((levels >= 0.875).float().mean()) == pytest.approx(shares[1], abs=0.005)
    high = objective.levels(torch.tensor([1e-6, 1 - 1e-6], dtype=torch.float64), 64, 0.875, 1.0)
    assert 0.875 <= high[0] < 0.8751
    assert high[1] > 0.998
    assert objective.levels(U, 64, 0.0, 0.875).max() <= 0.875


def test_expert_range_and_preset_range_meet(make):
    objective = make("flow", timesteps={"min": 0.5, "max": 0.9})
    levels = objective.levels(U, 64, 0.875, 1.0)
    assert levels.min() >= 0.875
    assert levels.max() <= 0.9
    assert objective.mass(0.875, 1.0, 64) == pytest.approx(0.025 / 0.4)
    assert objective.mass(0.0, 0.5, 64) == 0.0
    with pytest.raises(ConfigError, match="nothing between"):
        objective.levels(U, 64, 0.0, 0.4)


def test_custom_levels_are_not_shifted(make):
    spec = {"shift": {"kind": "constant", "value": 5.0}}
    objective = make("flow", spec, timesteps={"sampling": "custom", "values": [0.25, 1.0]})
    assert objective.levels(torch.tensor([0.1, 0.9]), 64).tolist() == [0.25, 1.0]
    assert objective.mass(0.5, 1.0, 64) == pytest.approx(0.5)


def test_quantile_levels_are_the_middles_of_equal_parts(make):
    objective = make("flow")
    assert objective.quantile_levels(4, 64).tolist() == pytest.approx([0.125, 0.375, 0.625, 0.875])
    assert objective.quantile_levels(2, 64, 0.5, 1.0).tolist() == pytest.approx([0.625, 0.875])
    assert objective.fraction(0.3) == 0.3


@pytest.mark.parametrize(
    ("section", "path"),
    [
        ({"weighting": "min_snr"}, "objective.weighting"),
        ({"zero_terminal_snr": True}, "objective.zero_terminal_snr"),
        ({"zero_terminal_snr": False}, "objective.zero_terminal_snr"),
        ({"prediction": "epsilon"}, "objective.prediction"),
        ({"prediction": "v_prediction"}, "objective.prediction"),
    ],
)
def test_options_without_meaning_are_refused(make, section, path):
    with pytest.raises(ConfigError, match=path) as caught:
        make("flow", **section)
    assert caught.value.hint
