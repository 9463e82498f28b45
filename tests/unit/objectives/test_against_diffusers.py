"""The noise schedule is the one of diffusers' own trainers. The only module here that imports diffusers."""

import diffusers
import pytest
import torch


def scheduler_of(kind: str, prediction: str, zero_terminal: bool):
    return diffusers.DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule=kind,
        prediction_type=prediction,
        rescale_betas_zero_snr=zero_terminal,
    )


@pytest.mark.parametrize("zero_terminal", [False, True])
@pytest.mark.parametrize("kind", ["scaled_linear", "linear"])
def test_alphas_noise_and_targets(make, kind, zero_terminal):
    scheduler = scheduler_of(kind, "v_prediction", zero_terminal)
    objective = make("v_prediction", {"schedule": {"kind": kind}}, zero_terminal_snr=zero_terminal)
    assert torch.allclose(objective.alphas_cumprod, scheduler.alphas_cumprod, rtol=2e-5, atol=1e-9)
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(5, 4, 3, 3, generator=generator) for _ in range(2))
    t = torch.tensor([0, 1, 500, 998, 999])
    noised = objective.noised({"image": x0}, {"image": noise}, t.float())
    assert torch.allclose(noised.x_t["image"], scheduler.add_noise(x0, noise, t), atol=1e-6)
    assert torch.allclose(noised.target["image"], scheduler.get_velocity(x0, noise, t), atol=1e-6)


def test_without_rescaling_the_schedule_is_bit_for_bit_the_same(make):
    assert torch.equal(make("epsilon").alphas_cumprod, scheduler_of("scaled_linear", "epsilon", False).alphas_cumprod)
