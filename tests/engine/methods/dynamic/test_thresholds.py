"""Thresholds for a budget: shares, costs, ties, and which exit an example takes."""

import numpy as np
import pytest

from engine.methods.dynamic.exits.thresholds import ALWAYS, NEVER, calibrate, shares_of, stops

COSTS = (10.0, 30.0, 60.0, 100.0)


@pytest.mark.parametrize("budget", [11, 25, 50, 80, 99])
def test_shares_are_geometric_and_use_the_budget_up(budget: float) -> None:
    shares = shares_of(COSTS, budget)
    assert shares @ np.array(COSTS) == pytest.approx(budget)
    assert shares.sum() == pytest.approx(1)
    ratios = shares[1:] / shares[:-1]
    assert ratios == pytest.approx([ratios[0]] * 3)


def test_a_budget_beyond_the_exits_sends_all_to_one_of_them() -> None:
    assert shares_of(COSTS, 5) == pytest.approx([1, 0, 0, 0])
    assert shares_of(COSTS, 500) == pytest.approx([0, 0, 0, 1])


def confidences(count: int = 1000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)


@pytest.mark.parametrize("budget", [0.15, 0.3, 0.55, 0.9])
def test_as_many_examples_stop_as_the_shares_say_and_the_surest_of_those_that_are_left(budget: float) -> None:
    drawn = confidences()
    found = calibrate(drawn, COSTS, budget, 100)
    taken = stops(drawn, found.thresholds)
    wanted = shares_of(COSTS, budget * 100)
    assert np.bincount(taken, minlength=4) / 1000 == pytest.approx(wanted, abs=1e-3)
    assert found.shares == pytest.approx(np.bincount(taken, minlength=4) / 1000)
    assert found.macs_count == pytest.approx(np.array(COSTS)[taken].mean())
    assert found.macs_count == pytest.approx(budget * 100, rel=0.01)
    left = np.ones(1000, dtype=bool)
    for place in range(3):
        here = left & (taken == place)
        assert drawn[here, place].min(initial=np.inf) >= found.thresholds[place] > drawn[left & ~here, place].max(initial=-np.inf)
        left &= ~here


def test_an_example_that_stopped_before_counts_at_no_later_exit() -> None:
    # The same two examples are the surest everywhere: they leave at the first exit, and others at the second.
    drawn = np.array([[9, 9, 0], [8, 8, 0], [1, 3, 0], [0, 2, 0], [-1, 1, 0], [-2, 0, 0]], dtype=np.float32)
    found = calibrate(drawn, (1.0, 2.0, 3.0), 2.0, 1.0)
    assert stops(drawn, found.thresholds).tolist() == [0, 0, 1, 1, 2, 2]


def test_the_whole_budget_stops_nothing_and_the_least_stops_everything() -> None:
    drawn = confidences()
    assert calibrate(drawn, COSTS, 1.0, 100).thresholds == (NEVER,) * 3
    least = calibrate(drawn, COSTS, 0.1, 100)
    assert least.thresholds[0] == ALWAYS
    assert stops(drawn, least.thresholds).max() == 0


def test_examples_that_are_equally_sure_stop_together_or_not_at_all() -> None:
    drawn = np.zeros((100, 2), dtype=np.float32)
    drawn[:60, 0] = 1
    # Half of them should stop: the sixty that are equally sure are nearer to that than none.
    assert (stops(drawn, calibrate(drawn, (1.0, 2.0), 1.5, 1.0).thresholds) == 0).sum() == 60
    # A fifth should: none is nearer than sixty.
    assert (stops(drawn, calibrate(drawn, (1.0, 2.0), 1.8, 1.0).thresholds) == 0).sum() == 0


def test_thresholds_lie_between_examples_so_that_rounding_turns_none_around() -> None:
    drawn = confidences(50)
    found = calibrate(drawn, COSTS, 0.4, 100)
    finite = [value for value in found.thresholds if np.isfinite(value)]
    assert finite
    assert all(np.abs(drawn - value).min() > 1e-5 for value in finite)
