"""The comparison with plain torch-pruning misses a bar exactly where it says."""

import pytest

from benchmarks.peers.structured import bars

MET = {"MACs, original/ours": 4.4, "points lost, ours": 0.2, "points lost, plain": 0.1, "wall, ours/plain ratio": 1.1}


def test_everything_at_the_bar_is_met():
    assert all(bars(MET | {"MACs, original/ours": 4.0, "points lost, ours": 0.3, "wall, ours/plain ratio": 1.2}).values())


@pytest.mark.parametrize(
    ("name", "value", "missed"),
    [
        ("MACs, original/ours", 3.99, {"macs"}),
        ("points lost, ours", 0.31, {"drop", "accuracy"}),
        ("points lost, plain", -0.01, {"accuracy"}),
        ("wall, ours/plain ratio", 1.21, {"wall"}),
    ],
)
def test_each_bar_is_missed_by_itself(name, value, missed):
    assert {bar for bar, met in bars(MET | {name: value}).items() if not met} == missed
