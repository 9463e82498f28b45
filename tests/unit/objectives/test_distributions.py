import math

import pytest
import torch

from tuner.config.schema import TimestepSection
from tuner.errors import ConfigError
from tuner.objectives import distributions
from tuner.objectives.distributions import Beta, CosMap, Listed, LogitNormal, Mode, Uniform

CONTINUOUS = [
    Uniform(),
    LogitNormal(0.0, 1.0),
    LogitNormal(-0.5, 0.6),
    Mode(1.29),
    Mode(-1.0),
    Mode(1.7),
    CosMap(),
    Beta(2.0, 2.0),
    Beta(0.3, 0.7),
    Beta(400.0, 100.0),
]
INTERVALS = [(0.0, 1.0), (0.875, 1.0), (0.0, 0.875), (0.2, 0.6)]
POSITIONS = torch.cat([torch.tensor([1e-7, 1e-4]), torch.linspace(0.01, 0.99, 99), torch.tensor([0.9999])]).double()


def name(distribution) -> str:
    numbers = [str(value) for value in vars(distribution).values() if isinstance(value, float)]
    return "-".join([type(distribution).__name__, *numbers])


@pytest.mark.parametrize("distribution", CONTINUOUS, ids=name)
def test_cdf_undoes_quantile(distribution):
    levels = distribution.quantile(POSITIONS)
    found = torch.tensor([distribution.cdf(level) for level in levels.tolist()], dtype=torch.float64)
    assert torch.allclose(found, POSITIONS, rtol=1e-6, atol=1e-12)
    assert (levels.diff() > 0).all()


@pytest.mark.parametrize("distribution", CONTINUOUS, ids=name)
def test_everything_lies_between_clean_and_noise(distribution):
    assert distribution.cdf(0.0) == pytest.approx(0.0, abs=1e-12)
    assert distribution.cdf(1.0) == pytest.approx(1.0, abs=1e-12)
    ends = distribution.quantile(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert 0.0 <= ends[0] < ends[1] <= 1.0


@pytest.mark.parametrize(
    ("a", "b", "exact"),
    [
        (1.0, 1.0, lambda t: t),
        (2.0, 2.0, lambda t: 3 * t**2 - 2 * t**3),
        (5.0, 1.0, lambda t: t**5),
        (1.0, 0.25, lambda t: 1 - (1 - t) ** 0.25),
        (0.5, 0.5, lambda t: 2 / math.pi * math.asin(math.sqrt(t))),
    ],
)
def test_beta_against_closed_forms(a, b, exact):
    for level in (1e-6, 0.01, 0.3, 0.5, 0.9, 0.999):
        assert Beta(a, b).cdf(level) == pytest.approx(exact(level), abs=1e-6, rel=1e-6)


def test_logit_normal_is_the_sigmoid_of_a_normal():
    quartiles = LogitNormal(0.4, 0.8).quantile(torch.tensor([0.25, 0.5, 0.75]))
    expected = torch.sigmoid(0.4 + 0.8 * torch.tensor([-0.674489750, 0.0, 0.674489750], dtype=torch.float64))
    assert torch.allclose(quartiles, expected, atol=1e-8)


def test_mode_and_cosmap_follow_the_paper():
    u = torch.linspace(0.01, 0.99, 11).double()
    paper_mode = 1 - u - 1.29 * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)
    assert torch.allclose(Mode(1.29).quantile(1 - u), paper_mode)
    assert torch.allclose(CosMap().quantile(u), 1 - 1 / (torch.tan(math.pi / 2 * u) + 1))


@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("distribution", CONTINUOUS[:8], ids=name)
def test_cut_levels_follow_the_conditional_distribution(distribution, interval):
    low, high = interval
    count = 4000
    u = torch.rand(count, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    levels = distribution.between(u, low, high).sort().values
    assert levels[0] >= low
    assert levels[-1] <= high
    below = torch.tensor([distribution.cdf(level) for level in levels.tolist()])
    conditional = (below - distribution.cdf(low)) / distribution.share(low, high)
    distance = (conditional - (torch.arange(count) + 0.5) / count).abs().max()
    assert distance < 1.95 / math.sqrt(count)  # Kolmogorov-Smirnov at the 0.1 % level


def test_both_tails_can_be_reached():
    high = LogitNormal(0.0, 1.0).between(torch.tensor([1e-9, 1 - 1e-9]), 0.875, 1.0)
    assert 0.875 <= high[0] < 0.87501
    assert high[1] > 0.99
    low = Beta(2.0, 2.0).between(torch.tensor([1e-9], dtype=torch.float64), 0.0, 0.5)
    assert 0.0 < low[0] < 1e-4


def test_nothing_left_is_an_error():
    with pytest.raises(ConfigError, match=r"nothing between 0\.95 and 1") as caught:
        LogitNormal(-4.0, 0.2).between(torch.tensor([0.5]), 0.95, 1.0)
    assert "widen" in caught.value.hint


def test_listed_levels_are_drawn_evenly_and_cut():
    listed = Listed([0.9, 0.1, 0.5])
    u = (torch.arange(6) + 0.5) / 6
    assert listed.between(u, 0.0, 1.0).tolist() == [0.1, 0.1, 0.5, 0.5, 0.9, 0.9]
    assert listed.between(u, 0.4, 1.0).tolist() == [0.5] * 3 + [0.9] * 3
    assert listed.share(0.4, 1.0) == pytest.approx(2 / 3)
    with pytest.raises(ConfigError):
        listed.between(u, 0.6, 0.8)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({}, LogitNormal),
        ({"sampling": "uniform"}, Uniform),
        ({"sampling": "logit_normal", "mean": 1.0, "std": 2.0}, LogitNormal),
        ({"sampling": "mode"}, Mode),
        ({"sampling": "cosmap"}, CosMap),
        ({"sampling": "beta", "beta": (3.0, 1.0)}, Beta),
        ({"sampling": "custom", "values": [0.3]}, Listed),
    ],
)
def test_build(values, kind):
    assert isinstance(distributions.build(TimestepSection.model_validate(values), "logit_normal"), kind)


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"sampling": "mode", "mode_scale": 1.8}, "mode_scale"),
        ({"sampling": "mode", "mode_scale": -1.1}, "mode_scale"),
        ({"sampling": "beta", "beta": (0.0, 1.0)}, "beta"),
    ],
)
def test_impossible_parameters_are_refused(values, path):
    with pytest.raises(ConfigError, match=path):
        distributions.build(TimestepSection.model_validate(values), "uniform")
