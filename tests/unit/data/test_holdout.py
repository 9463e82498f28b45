import pytest

from tuner.data.holdout import held_out

NAMES = [f"{number}.png" for number in range(400)]


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.9])
def test_about_the_share_is_held_out(share):
    assert sum(held_out(NAMES, share, seed=1)) == pytest.approx(share * len(NAMES), abs=40)


def test_it_depends_on_the_seed_and_on_nothing_else():
    assert held_out(NAMES, 0.3, 1) == held_out(NAMES, 0.3, 1)
    assert held_out(NAMES, 0.3, 1) != held_out(NAMES, 0.3, 2)


def test_it_stays_when_others_come_and_go():
    all_of_them = dict(zip(NAMES, held_out(NAMES, 0.3, 1), strict=True))
    some = NAMES[5:300:3]
    assert held_out(some, 0.3, 1) == [all_of_them[name] for name in some]


@pytest.mark.parametrize("count", range(2, 30))
@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_one_at_least_and_never_all(count, share):
    assert 1 <= sum(held_out(NAMES[:count], share, seed=0)) < count


def test_nothing_without_a_share_or_without_company():
    assert not any(held_out(NAMES, 0.0, 0))
    assert held_out(["a.png"], 0.999, 0) == [False]
    assert held_out([], 0.5, 0) == []
