import pytest
import torch

from tuner.config.schema import LossSection
from tuner.objectives import loss
from tuner.objectives.base import Noised


def noised(target, weight=None):
    batch = len(next(iter(target.values())))
    return Noised(target, torch.zeros(batch), target, torch.ones(batch) if weight is None else weight)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_mse_is_the_mean_over_a_sample():
    target, prediction = random(3, 2, 4, 4), random(3, 2, 4, 4, seed=1)
    found = loss.per_sample({"image": prediction}, noised({"image": target}), LossSection())
    expected = [torch.nn.functional.mse_loss(a, b) for a, b in zip(prediction, target, strict=True)]
    assert torch.allclose(found, torch.stack(expected))


def test_weights_multiply():
    target = {"image": torch.zeros(2, 1, 2, 2)}
    prediction = {"image": torch.ones(2, 1, 2, 2)}
    found = loss.per_sample(prediction, noised(target, torch.tensor([0.5, 2.0])), LossSection())
    assert found.tolist() == [0.5, 2.0]


def test_the_loss_is_float32_whatever_the_prediction_is():
    target = {"image": torch.zeros(1, 1, 1, 1)}
    found = loss.per_sample({"image": torch.full((1, 1, 1, 1), 300.0).half()}, noised(target), LossSection())
    assert found.dtype == torch.float32
    assert float(found) == 90_000.0  # infinite in float16


@pytest.mark.parametrize(("kind", "scale"), [("huber", 0.2), ("smooth_l1", 2.0)])
def test_huber_and_smooth_l1(kind, scale):
    difference = torch.tensor([0.0, 1e-3, 0.5, -4.0])
    found = loss.elementwise(difference, LossSection(kind=kind, c=0.1))
    assert torch.allclose(found, scale * (torch.sqrt(difference**2 + 0.01) - 0.1), atol=1e-7)


def test_huber_is_squared_for_small_and_linear_for_large_differences():
    section = LossSection(kind="huber", c=0.5)
    assert float(loss.elementwise(torch.tensor(0.01), section)) == pytest.approx(1e-4, rel=1e-2)
    far = loss.elementwise(torch.tensor([100.0, 101.0]), section)
    assert float(far[1] - far[0]) == pytest.approx(2 * 0.5, rel=1e-3)


def test_only_the_masked_area_counts_and_its_size_does_not():
    target = torch.zeros(1, 3, 4, 4)
    prediction = torch.ones(1, 3, 4, 4)
    prediction[..., 2:] = 100.0
    for rows in (1, 4):
        mask = torch.zeros(1, 1, 4, 4)
        mask[:, :, :rows, :2] = 1.0
        found = loss.per_sample({"image": prediction}, noised({"image": target}), LossSection(), {"image": mask})
        assert found.tolist() == [1.0]


def test_soft_masks_are_weights():
    prediction = torch.tensor([1.0, 3.0]).view(1, 1, 1, 2)
    mask = torch.tensor([1.0, 0.5]).view(1, 1, 1, 2)
    found = loss.per_sample(
        {"image": prediction}, noised({"image": torch.zeros(1, 1, 1, 2)}), LossSection(), {"image": mask}
    )
    assert found.tolist() == pytest.approx([(1 + 0.5 * 9) / 1.5])


def test_an_empty_mask_gives_zero_and_a_finite_gradient():
    prediction = random(2, 1, 2, 2).requires_grad_()
    mask = torch.zeros(2, 1, 2, 2)
    mask[1] = 1.0
    found = loss.per_sample(
        {"image": prediction}, noised({"image": torch.zeros(2, 1, 2, 2)}), LossSection(), {"image": mask}
    )
    found.sum().backward()
    assert found[0].item() == 0.0
    assert (prediction.grad[0] == 0).all()
    assert torch.isfinite(prediction.grad).all()
    assert (prediction.grad[1] != 0).any()


@pytest.mark.parametrize("per_frame", [False, True])
def test_masks_of_clips(per_frame):
    prediction = torch.ones(1, 2, 3, 4, 4)
    prediction[..., 1:, :] = 7.0
    mask = torch.zeros(1, 1, 3, 4, 4) if per_frame else torch.zeros(1, 1, 4, 4)
    mask[..., 0, :] = 1.0
    found = loss.per_sample(
        {"video": prediction}, noised({"video": torch.zeros_like(prediction)}), LossSection(), {"video": mask}
    )
    assert found.tolist() == [1.0]


def test_modalities_count_alike_whatever_their_size():
    target = {"video": torch.zeros(1, 4, 2, 8, 8), "audio": torch.zeros(1, 2, 3)}
    prediction = {"video": torch.ones(1, 4, 2, 8, 8), "audio": torch.full((1, 2, 3), 3.0)}
    assert loss.per_sample(prediction, noised(target), LossSection()).tolist() == [5.0]
