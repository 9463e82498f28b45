import torch

from tuner.objectives.draws import stratified, uniform


def test_every_stratum_is_drawn_once():
    for seed in range(20):
        u = stratified(16, torch.Generator().manual_seed(seed))
        assert sorted((u * 16).long().tolist()) == list(range(16))


def test_order_is_random_and_reproducible():
    first, again = (stratified(64, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, first.sort().values)
    assert not torch.equal(first, stratified(64, torch.Generator().manual_seed(4)))


def test_one_position_alone_is_uniform():
    firsts = torch.stack([stratified(4, torch.Generator().manual_seed(seed))[0] for seed in range(2000)]).sort().values
    assert (firsts - (torch.arange(2000) + 0.5) / 2000).abs().max() < 1.95 / 2000**0.5


def test_plain_draws_are_independent_and_open():
    u = uniform(4000, torch.Generator().manual_seed(0)).sort().values
    assert (u - (torch.arange(4000) + 0.5) / 4000).abs().max() < 1.95 / 4000**0.5
    assert u[0] > 0
    assert u[-1] < 1
    # Sixteen independent draws leave some sixteenth empty, almost surely.
    assert len(set((uniform(16, torch.Generator().manual_seed(0)) * 16).long().tolist())) < 16
