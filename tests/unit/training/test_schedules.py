import pytest

from tuner.config.schema import ScheduleSection
from tuner.training.schedules import factor

NAMES = ["constant", "linear", "cosine", "rex", "wsd"]
TOTAL = 100


def curve(**values) -> list[float]:
    section = ScheduleSection.model_validate(values)
    return [factor(step, TOTAL, section) for step in range(1, TOTAL + 1)]


@pytest.mark.parametrize("name", NAMES)
def test_warm_up_rises_from_the_first_step_to_one(name):
    factors = curve(name=name, warmup_steps=10)
    assert factors[:10] == pytest.approx([step / 10 for step in range(1, 11)])


@pytest.mark.parametrize("name", NAMES[1:])
@pytest.mark.parametrize("warmup_steps", [0, 10])
@pytest.mark.parametrize("end_factor", [0.0, 0.25])
def test_decays_never_rise_and_end_at_the_end_factor(name, warmup_steps, end_factor):
    factors = curve(name=name, warmup_steps=warmup_steps, end_factor=end_factor)
    after = factors[warmup_steps:]
    assert after == sorted(after, reverse=True)
    assert after[0] <= 1.0
    assert factors[-1] == pytest.approx(end_factor)
    assert max(factors) <= 1.0


def test_constant():
    assert curve(name="constant") == [1.0] * TOTAL


@pytest.mark.parametrize(("name", "half_way"), [("linear", 0.5), ("cosine", 0.5), ("rex", 2 / 3)])
def test_half_way(name, half_way):
    assert curve(name=name)[49] == pytest.approx(half_way)
    assert curve(name=name, end_factor=0.5)[49] == pytest.approx(0.5 + 0.5 * half_way)
    assert curve(name=name, warmup_steps=20)[59] == pytest.approx(half_way)


def test_cosine_is_slow_at_both_ends():
    factors = curve(name="cosine")
    assert factors[9] > 0.97
    assert factors[89] < 0.03


def test_wsd_holds_then_decays_over_its_share():
    factors = curve(name="wsd", warmup_steps=5, decay_share=0.2)
    assert factors[4:80] == [1.0] * 76
    assert factors[80] < 1.0
    assert factors[84] == pytest.approx(1 - 0.25**0.5)


def test_a_decay_never_cuts_the_warm_up():
    factors = curve(name="wsd", warmup_steps=50, decay_share=1.0)
    assert factors[49] == 1.0
    assert factors[48] == pytest.approx(0.98)
    assert factors[-1] == 0.0


def test_a_warm_up_longer_than_the_run():
    assert curve(name="cosine", warmup_steps=200)[-1] == pytest.approx(0.5)
    assert curve(name="cosine", warmup_steps=TOTAL)[-1] == 1.0
