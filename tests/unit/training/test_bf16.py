import io

import pytest
import torch
from torch import nn

from tuner.errors import CheckpointError
from tuner.training.bf16 import Bf16Optimizer, hollow, mixes_parameters, stochastically_rounded

STEPS = 100
RATE = 1e-5
"""A hundredth of what a bfloat16 1.0 can move by (1/256 down, 1/128 up)."""


def sgd(groups):
    return torch.optim.SGD(groups, lr=RATE)


def adam(groups):
    return torch.optim.AdamW(groups, lr=1e-4, weight_decay=0.01)


def wrapped(weight, rounding, factory=sgd, rate=RATE, seed=0):
    return Bf16Optimizer([{"params": [weight], "lr": rate}], factory, rounding, seed)


def stepped(rounding, count=4096, steps=STEPS):
    weight = nn.Parameter(torch.ones(count, dtype=torch.bfloat16))
    optimizer = wrapped(weight, rounding)
    for _ in range(steps):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    return weight, optimizer


def test_plain_does_not_move():
    weight, _ = stepped("plain")
    assert (weight == 1.0).all()


def test_stochastic_moves_in_the_mean():
    weight, _ = stepped("stochastic")
    moved = 1.0 - weight.detach().float()
    assert set(moved.unique().tolist()) <= {k / 256 for k in range(20)}
    # 100 draws of probability 0.00256 for each of 4096 weights: a standard error of 3 % of the mean.
    assert float(moved.mean()) == pytest.approx(STEPS * RATE, rel=0.12)


def test_kahan_tracks_float32():
    rate = 1e-4  # a twentieth of what plain rounding notices
    weight = nn.Parameter(torch.ones(16, dtype=torch.bfloat16))
    optimizer = wrapped(weight, "kahan", rate=rate)
    for _ in range(STEPS):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    held = weight.detach().float() + optimizer.state_dict()["compensation"][0].float()
    exact = torch.full((16,), 1.0 - STEPS * rate)
    assert torch.allclose(held, exact, rtol=0, atol=STEPS * rate * 0.02)
    assert torch.equal(weight.detach(), exact.bfloat16())


def test_kahan_tracks_adam_in_float32():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(256, generator=generator).bfloat16()
    weight, exact = nn.Parameter(start.clone()), nn.Parameter(start.float())
    kahan, reference = wrapped(weight, "kahan", adam, 1e-4), adam([exact])
    for _ in range(STEPS):
        gradient = torch.randn(256, generator=generator).bfloat16()
        weight.grad, exact.grad = gradient, gradient.float()
        kahan.step()
        reference.step()
    moved = (exact - start.float()).detach().norm()
    held = weight.float() + kahan.state_dict()["compensation"][0].float()
    assert (held - exact).detach().norm() < 0.01 * moved
    assert (weight.float() - exact).detach().norm() < 0.5 * (start.float() * 2**-8).norm()


def test_rounding_is_to_the_neighbours_and_unbiased():
    value = torch.tensor([1.0 + 0.25 / 128, -1.0 - 0.25 / 128, 3e-5, 0.0]).repeat(20_000, 1)
    rounded = stochastically_rounded(value, torch.Generator().manual_seed(0))
    assert rounded.dtype == torch.bfloat16
    ups = (rounded[:, 0].float() == 1.0 + 1 / 128).float().mean()
    assert float(ups) == pytest.approx(0.25, abs=0.015)
    assert torch.allclose(rounded.float().mean(0), value[0], rtol=1e-3)
    assert (rounded[:, 3] == 0).all()
    assert ((rounded.float() - value).abs() <= value.abs() / 128).all()


def test_what_bfloat16_can_hold_stays():
    value = torch.randn(1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(stochastically_rounded(value.float(), torch.Generator().manual_seed(1)), value)
    endless = torch.tensor([float("inf"), float("-inf")])
    assert torch.equal(stochastically_rounded(endless, torch.Generator().manual_seed(1)).float(), endless)


def test_rounding_depends_on_seed_step_and_position_only():
    def run(seed):
        weights = [nn.Parameter(torch.ones(512, dtype=torch.bfloat16)) for _ in range(2)]
        optimizer = Bf16Optimizer([{"params": weights, "lr": 1e-3}], sgd, "stochastic", seed)
        for _ in range(2):
            for weight in weights:
                weight.grad = torch.ones_like(weight)
            torch.rand(3)  # the global generator has no say
            optimizer.step()
        return torch.stack([weight.detach() for weight in weights])

    first = run(0)
    assert torch.equal(first, run(0))
    assert not torch.equal(first, run(1))
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("rounding", ["stochastic", "kahan", "plain"])
def test_resume_is_bit_exact(rounding):
    def train(weight, optimizer, steps):
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            weight.grad = torch.randn(64, generator=generator).bfloat16()
            optimizer.step()

    weight = nn.Parameter(torch.ones(64, dtype=torch.bfloat16))
    optimizer = wrapped(weight, rounding, adam, 1e-3)
    train(weight, optimizer, range(10))
    stored = io.BytesIO()
    torch.save(optimizer.state_dict(), stored)
    resumed = nn.Parameter(weight.detach().clone())
    train(weight, optimizer, range(10, 20))
    stored.seek(0)
    other = wrapped(resumed, rounding, adam, 1e-3)
    other.load_state_dict(torch.load(stored, weights_only=True))
    train(resumed, other, range(10, 20))
    assert torch.equal(weight, resumed)
    rests = optimizer.state_dict()["compensation"] + other.state_dict()["compensation"]
    assert (rests[0] is None) == (rounding != "kahan")
    assert rests[0] is None or torch.equal(rests[0], rests[1])


def test_state_of_another_rounding_is_refused():
    weight = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    with pytest.raises(CheckpointError, match="rounding"):
        wrapped(weight, "kahan").load_state_dict(wrapped(weight, "plain").state_dict())


def test_between_steps_no_copy_is_kept():
    weight = nn.Parameter(torch.ones(64, 64, dtype=torch.bfloat16))
    optimizer = wrapped(weight, "stochastic", adam)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    shadow = optimizer._slots[0].shadow
    assert shadow.shape == weight.shape
    assert shadow.untyped_storage().nbytes() == 4
    assert shadow.grad is None
    assert hollow(weight).untyped_storage().nbytes() == 4


def test_optimizer_state_is_float32():
    weight = nn.Parameter(torch.ones(8, dtype=torch.bfloat16))
    optimizer = wrapped(weight, "plain", adam)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    state = optimizer.state_dict()["inner"][0]["state"][0]
    assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.float32


def test_float32_weights_pass_through_and_rates_are_the_groups():
    half, whole = nn.Parameter(torch.ones(4, dtype=torch.bfloat16)), nn.Parameter(torch.ones(4))
    optimizer = Bf16Optimizer([{"params": [half], "lr": 0.5}, {"params": [whole], "lr": RATE}], sgd, "stochastic", 0)
    for weight in (half, whole):
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert (half == 0.5).all()
    assert torch.equal(whole.detach(), torch.ones(4) - RATE)
    optimizer.param_groups[0]["lr"] = 0.25
    optimizer.step()
    assert (half == 0.25).all()


def test_weights_without_a_gradient_stay():
    weights = [nn.Parameter(torch.ones(4, dtype=torch.bfloat16)) for _ in range(2)]
    optimizer = Bf16Optimizer([{"params": weights, "lr": 0.5}], sgd, "plain", 0)
    weights[1].grad = torch.ones(4, dtype=torch.bfloat16)
    optimizer.step()
    assert (weights[0] == 1.0).all()
    assert (weights[1] == 0.5).all()
    optimizer.zero_grad()
    assert weights[1].grad is None


class CommonScale(torch.optim.SGD):
    """Moves by the gradient over the norm of all gradients together."""

    def step(self, closure=None):
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        norm = torch.stack([g.norm() for g in gradients]).norm()
        for gradient in gradients:
            gradient.div_(norm)
        return super().step()


def test_optimizers_that_mix_parameters_are_found():
    device = torch.device("cpu")
    assert mixes_parameters(lambda groups: CommonScale(groups, lr=1e-3), device)
    assert not mixes_parameters(sgd, device)
    assert not mixes_parameters(adam, device)
