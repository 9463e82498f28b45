import pytest
import torch

from tuner.errors import ConfigError

T = 1000
EVERY = (torch.arange(T, dtype=torch.float64) + 0.5) / T


def test_levels_are_whole_timesteps_and_cover_all(make):
    levels = make("epsilon").levels(EVERY, tokens=64)
    assert levels.dtype == torch.float32
    assert levels.tolist() == list(range(T))


@pytest.mark.parametrize(
    ("low", "high", "first", "last"), [(0.5, 1.0, 500, 999), (0.0, 0.29, 0, 289), (0.1, 0.11, 100, 109)]
)
def test_min_and_max_are_fractions_of_the_schedule(make, low, high, first, last):
    levels = make("epsilon", timesteps={"min": low, "max": high}).levels(EVERY, 64)
    assert levels.unique().tolist() == list(range(first, last + 1))
    counts = levels.unique(return_counts=True)[1]
    assert counts.max() - counts.min() <= 1


def test_an_interval_inside_one_timestep_gives_that_timestep(make):
    levels = make("epsilon", timesteps={"min": 0.5002, "max": 0.5004}).levels(EVERY, 64)
    assert levels.unique().tolist() == [500]


def test_sampling_shapes_the_fractions(make):
    levels = make("epsilon", timesteps={"sampling": "logit_normal"}).levels(EVERY, 64)
    assert levels.median() == pytest.approx(500, abs=1)
    assert ((levels > 250) & (levels < 750)).float().mean() == pytest.approx(0.728, abs=0.005)


def test_custom_levels(make):
    objective = make("epsilon", timesteps={"sampling": "custom", "values": [0.0, 0.29, 1.0]})
    assert objective.levels(torch.tensor([0.1, 0.5, 0.9]), 64).tolist() == [0, 290, 999]


def test_products_that_miss_a_whole_number_by_a_bit(make):
    """0.69 of 1100 is 758.9999999999999 to a computer, and 0.07 of 1100 is 77.00000000000001."""
    spec = {"schedule": {"num_timesteps": 1100}}
    listed = make("epsilon", spec, timesteps={"sampling": "custom", "values": [0.69]})
    assert listed.levels(torch.tensor([0.5]), 64).tolist() == [759]
    assert make("epsilon", spec, timesteps={"min": 0.69}).levels(EVERY, 64).min() == 759
    assert make("epsilon", spec, timesteps={"max": 0.07}).levels(torch.tensor([1.0]), 64).tolist() == [76]


def test_fractions_of_levels_lie_in_their_part(make):
    objective = make("epsilon")
    assert objective.fraction(0) == pytest.approx(0.0005)
    assert objective.levels(torch.tensor([objective.fraction(123)]), 64).tolist() == [123]
    assert objective.mass(0.25, 0.5, 64) == pytest.approx(0.25)
    assert objective.quantile_levels(2, 64).tolist() == [250, 750]


def test_a_perfect_epsilon_or_v_recovers_the_sample(make):
    generator = torch.Generator().manual_seed(0)
    x0 = {"image": torch.randn(3, 2, 4, 4, generator=generator)}
    noise = {"image": torch.randn(3, 2, 4, 4, generator=generator)}
    t = torch.tensor([0.0, 400.0, 999.0])
    share = make("epsilon").alphas_cumprod
    a, b = share[t.long()].sqrt().view(3, 1, 1, 1), (1 - share[t.long()]).sqrt().view(3, 1, 1, 1)
    epsilon = make("epsilon").noised(x0, noise, t)
    assert torch.equal(epsilon.target["image"], noise["image"])
    assert torch.allclose((epsilon.x_t["image"] - b * epsilon.target["image"]) / a, x0["image"], atol=1e-4)
    v = make("v_prediction").noised(x0, noise, t)
    assert torch.equal(v.x_t["image"], epsilon.x_t["image"])
    assert torch.allclose(a * v.x_t["image"] - b * v.target["image"], x0["image"], atol=1e-5)


def test_zero_terminal_snr_ends_in_pure_noise(make):
    objective = make("v_prediction", zero_terminal_snr=True)
    assert objective.alphas_cumprod[-1] == 0
    x0, noise = {"image": torch.full((1, 1, 1, 1), 2.0)}, {"image": torch.full((1, 1, 1, 1), 0.5)}
    noised = objective.noised(x0, noise, torch.tensor([999.0]))
    assert float(noised.x_t["image"]) == 0.5
    assert float(noised.target["image"]) == -2.0


def test_zero_terminal_snr_auto_is_the_models_own_for_v_only(make):
    spec = {"schedule": {"zero_terminal_snr": True}}
    assert make("v_prediction", spec).alphas_cumprod[-1] == 0
    assert make("v_prediction", spec, zero_terminal_snr=False).alphas_cumprod[-1] > 0
    assert make("v_prediction", spec, prediction="epsilon").alphas_cumprod[-1] > 0
    assert make("v_prediction").alphas_cumprod[-1] > 0


def test_weights_follow_the_timestep(make):
    objective = make("epsilon", weighting="min_snr", snr_gamma=5.0)
    x0 = {"image": torch.zeros(2, 1, 1, 1)}
    share = objective.alphas_cumprod.double()
    snr = share / (1 - share)
    weight = objective.noised(x0, x0, torch.tensor([0.0, 999.0])).weight
    assert weight.tolist() == pytest.approx([5 / float(snr[0]), 1.0])


def test_prediction_may_change_between_epsilon_and_v(make):
    assert make("epsilon").prediction == "epsilon"
    assert make("epsilon", prediction="v_prediction").prediction == "v_prediction"


@pytest.mark.parametrize(
    ("section", "path"),
    [
        ({"timesteps": {"shift": 3.0}}, "objective.timesteps.shift"),
        ({"timesteps": {"shift": "resolution"}}, "objective.timesteps.shift"),
        ({"zero_terminal_snr": True}, "objective.zero_terminal_snr"),
        ({"prediction": "flow"}, "objective.prediction"),
    ],
)
def test_options_without_meaning_are_refused(make, section, path):
    with pytest.raises(ConfigError, match=path) as caught:
        make("epsilon", **section)
    assert caught.value.hint


def test_a_shift_of_one_is_no_shift(make):
    assert make("epsilon", timesteps={"shift": 1.0}).levels(EVERY, 64).tolist() == list(range(T))
