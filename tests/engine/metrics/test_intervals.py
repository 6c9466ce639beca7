"""The interval of a share is Wilson's."""

import math

import pytest

from engine.metrics.intervals import wilson_interval


@pytest.mark.parametrize(
    ("right", "count", "expected"),
    [(0, 10, (0.0, 0.27753)), (8, 10, (0.49016, 0.94332)), (50, 100, (0.40383, 0.59617)), (100, 100, (0.96301, 1.0))],
)
def test_known_intervals(right: int, count: int, expected: tuple[float, float]) -> None:
    assert wilson_interval(right / count, count) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("z", [1.0, 1.959964, 3.0])
def test_its_ends_are_the_shares_from_which_the_sample_lies_just_z_deviations(z: float) -> None:
    share, count = 0.3, 40
    for end in wilson_interval(share, count, z):
        assert abs(share - end) == pytest.approx(z * math.sqrt(end * (1 - end) / count))


def test_without_examples_nothing_is_known() -> None:
    assert wilson_interval(0.0, 0) == (0.0, 1.0)
    assert wilson_interval(1.0, 1) == pytest.approx((0.20655, 1.0), abs=1e-5)
