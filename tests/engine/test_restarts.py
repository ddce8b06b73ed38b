"""When a fallen actor is started again (3.6)."""

import pytest

from engine.restarts import BUDGET_COUNT, BUDGET_WINDOW_S, FIRST_PAUSE_S, MOST_PAUSE_S, RestartBudget


def test_pauses_double_up_to_their_limit() -> None:
    """A fall after a fall waits twice as long; restarting never ends."""
    budget = RestartBudget()
    pauses = [budget.fell(now / 10, jitter=1.0) for now in range(12)]
    assert pauses[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert pauses == sorted(pauses)
    assert pauses[-1] == MOST_PAUSE_S
    assert budget.count == 12


@pytest.mark.parametrize(("jitter", "part"), [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0)])
def test_jitter_spreads_the_pauses(jitter: float, part: float) -> None:
    """A pause is between half and all of its length, so that what fell together does not return together."""
    assert RestartBudget().fell(0.0, jitter) == pytest.approx(FIRST_PAUSE_S * part)


def test_the_budget_is_spent_by_one_fall_more_than_it_holds() -> None:
    """Five falls a minute are within it, the sixth is not; when they have passed, it is whole again."""
    budget = RestartBudget()
    for number in range(BUDGET_COUNT):
        budget.fell(float(number), 0.5)
        assert not budget.is_spent(float(number))
    budget.fell(float(BUDGET_COUNT), 0.5)
    assert budget.is_spent(float(BUDGET_COUNT))
    assert budget.is_spent(BUDGET_WINDOW_S - 0.001)
    assert not budget.is_spent(BUDGET_WINDOW_S)  # the first fall has passed out of the window
    assert budget.count == BUDGET_COUNT + 1


def test_falls_far_apart_are_each_a_first() -> None:
    """An actor that falls once an hour waits as after a first fall."""
    budget = RestartBudget()
    for hour in range(10):
        assert budget.fell(hour * 3600.0, 1.0) == FIRST_PAUSE_S
        assert not budget.is_spent(hour * 3600.0)
