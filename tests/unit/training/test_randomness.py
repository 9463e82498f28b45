import random

import torch

from tuner.training import randomness


def test_seeds_depend_on_every_part():
    seeds = {
        randomness.derived_seed(*parts) for parts in [(0, "a", 1), (0, "a", 2), (0, "b", 1), (1, "a", 1), (0, "a1")]
    }
    assert len(seeds) == 5
    assert randomness.derived_seed(0, "a", 1) == randomness.derived_seed(0, "a", 1)


def test_noise_follows_the_position_only():
    latents = {"image": torch.zeros(2, 4, 8, 8)}
    first = randomness.noise_like(latents, randomness.generator(0, "noise", 3))
    torch.rand(10)
    again = randomness.noise_like(latents, randomness.generator(0, "noise", 3))
    other = randomness.noise_like(latents, randomness.generator(0, "noise", 4))
    assert torch.equal(first["image"], again["image"])
    assert not torch.equal(first["image"], other["image"])


def test_global_states_survive_a_weights_only_file(tmp_path):
    randomness.seed_everything(5)
    torch.rand(3), random.random()
    torch.save(randomness.global_states(), tmp_path / "random.pt")
    expected = torch.rand(3), random.random()
    randomness.seed_everything(6)
    randomness.restore_global_states(torch.load(tmp_path / "random.pt", weights_only=True))
    assert torch.equal(torch.rand(3), expected[0]) and random.random() == expected[1]
