from collections import Counter

import pytest

from tests.unit.data.test_buckets import sample
from tuner.config.schema import DataSection
from tuner.data.buckets import assign
from tuner.data.loader import Batches
from tuner.errors import DatasetError

SHAPES = [(100, 100)] * 11 + [(160, 100)] * 5 + [(100, 200)] * 1 + [(200, 100)] * 4


@pytest.fixture
def items(image_model):
    sources = [DataSection(path="x"), DataSection(path="y", repeats=3)]
    samples = [sample(*shape, path=f"{number}.png", source=number % 2) for number, shape in enumerate(SHAPES)]
    return assign(samples, sources, image_model)


def epoch_of(batches, number, world=1):
    """All batches of one epoch, from all ``world`` processes, which are given in ``batches``."""
    count = batches[0]._in_epoch
    return [batches[at % world].batch(at // world) for at in range(number * count, (number + 1) * count)]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 7, 100])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_an_epoch_trains_each_item_as_often_as_it_repeats(items, batch_size, world):
    ranks = [Batches(items, batch_size, seed=1, rank=rank, world=world) for rank in range(world)]
    for number in range(3):
        seen = Counter(item for batch in epoch_of(ranks, number, world) for item in batch)
        assert seen == Counter({item: item.repeats for item in items})


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
def test_a_batch_has_one_bucket_and_at_most_its_size(items, batch_size):
    batches = Batches(items, batch_size, seed=1)
    for micro_step in range(3 * batches.per_epoch):
        batch = batches.batch(micro_step)
        assert 1 <= len(batch) <= batch_size
        assert len({item.bucket for item in batch}) == 1


def test_what_does_not_fill_a_batch_is_spread_evenly(items):
    five = [item for item in items if item.repeats == 1 and item.crop.width_px == item.crop.height_px][:5]
    sizes = sorted(len(Batches(five, 4, seed=0).batch(step)) for step in range(2))
    assert sizes == [2, 3]
    assert Batches(five, 4, seed=0).per_epoch == 2


def test_it_is_a_pure_function_of_the_position(items):
    forwards = [Batches(items, 3, seed=4).batch(step) for step in range(40)]
    backwards = Batches(items, 3, seed=4)
    assert [backwards.batch(step) for step in reversed(range(40))] == forwards[::-1]
    assert Batches(items, 3, seed=4).batch(10**6) == Batches(items, 3, seed=4).batch(10**6)


def test_seeds_and_epochs_are_shuffled_differently(items):
    one, other = Batches(items, 3, seed=1), Batches(items, 3, seed=2)
    steps = range(one.per_epoch)
    first = [one.batch(step) for step in steps]
    assert first != [other.batch(step) for step in steps]
    assert first != [one.batch(step + one.per_epoch) for step in steps]
    together = {frozenset(item.sample.path for item in batch) for batch in first}
    later = {frozenset(item.sample.path for item in one.batch(step + one.per_epoch)) for step in steps}
    assert together != later


@pytest.mark.parametrize("world", [2, 3, 5])
def test_processes_train_different_batches_of_one_row(items, world):
    alone = Batches(items, 2, seed=3)
    ranks = [Batches(items, 2, seed=3, rank=rank, world=world) for rank in range(world)]
    for step in range(30):
        assert [rank.batch(step) for rank in ranks] == [alone.batch(step * world + at) for at in range(world)]


def test_epochs_are_counted_over_all_processes(items):
    alone, two = Batches(items, 2, seed=0), Batches(items, 2, seed=0, world=2)
    assert alone.epoch(0) == 0.0
    assert alone.epoch(alone.per_epoch) == 1.0
    assert two.per_epoch == -(-alone.per_epoch // 2)
    assert two.epoch(10) == alone.epoch(20)


def test_repeats_do_not_crowd_one_batch(image_model):
    source = [DataSection(path="x", repeats=6)]
    eight = assign([sample(9, 9, path=f"{number}.png") for number in range(8)], source, image_model)
    batches = Batches(eight, 8, seed=0)
    for step in range(batches.per_epoch):
        assert len({item.sample.path for item in batches.batch(step)}) == 8


def test_memory_does_not_grow_with_the_epochs(items):
    batches = Batches(items, 1, seed=0)
    for step in range(0, 50 * batches.per_epoch, 7):
        batches.batch(step)
    assert len(batches._plans) == 2


def test_nothing_to_train_on():
    with pytest.raises(DatasetError, match="nothing to train on"):
        Batches([], 1, 0)
