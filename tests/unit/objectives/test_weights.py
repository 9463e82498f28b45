import pytest
import torch

from tuner.objectives import weights

SNR = torch.tensor([0.0, 0.01, 1.0, 4.0, 5.0, 6.0, 1e3, 1e6], dtype=torch.float64)
POSITIVE = SNR[1:]
PREDICTIONS = ("epsilon", "v_prediction")


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("weighting", ["none", "min_snr", "soft_min_snr", "debiased"])
def test_finite_and_not_negative_everywhere(weighting, prediction):
    factors = weights.table(weighting, SNR, prediction, 5.0)
    assert factors.dtype == torch.float32
    assert torch.isfinite(factors).all()
    assert (factors >= 0).all()


def test_min_snr_of_epsilon():
    assert weights.min_snr(SNR, "epsilon", 5.0).tolist() == pytest.approx([1, 1, 1, 1, 1, 5 / 6, 5e-3, 5e-6])


def test_min_snr_of_v():
    expected = POSITIVE.clamp(max=5.0) / (POSITIVE + 1)
    assert torch.allclose(weights.min_snr(POSITIVE, "v_prediction", 5.0), expected)
    assert weights.min_snr(SNR, "v_prediction", 5.0)[0] == 0


def test_soft_min_snr_is_the_papers_weight_of_x0():
    on_x0 = 1 / (1 / POSITIVE + 1 / 5.0)
    assert torch.allclose(weights.soft_min_snr(POSITIVE, "epsilon", 5.0) * POSITIVE, on_x0)
    assert torch.allclose(weights.soft_min_snr(POSITIVE, "v_prediction", 5.0) * (POSITIVE + 1), on_x0)


def test_debiased_is_capped_as_published():
    assert weights.debiased(torch.tensor([4.0, 1e3, 1e6]), "epsilon").tolist() == pytest.approx(
        [0.5, 1e3**-0.5, 1e3**-0.5]
    )
    assert weights.debiased(torch.tensor([4.0]), "v_prediction").tolist() == pytest.approx([0.4])


@pytest.mark.parametrize("weighting", ["min_snr", "soft_min_snr", "debiased"])
def test_epsilon_and_v_weights_are_the_same_loss(weighting):
    """An error e of x0 is an error of SNR e^2 in epsilon, and of (SNR + 1) e^2 in v."""
    snr = POSITIVE[POSITIVE < weights.LARGEST_SNR]
    epsilon, v = (weights.table(weighting, snr, prediction, 5.0) for prediction in PREDICTIONS)
    assert torch.allclose(epsilon * snr, v * (snr + 1))
