"""The Range header, case by case."""

import pytest

from api.http import ranges

SIZE = 100


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (None, []),
        ("bytes=0-9", [(0, 10)]),
        ("bytes=90-", [(90, 100)]),
        ("bytes=-5", [(95, 100)]),
        ("bytes=-500", [(0, 100)]),
        ("bytes=0-999", [(0, 100)]),
        ("bytes=99-99", [(99, 100)]),
        ("BYTES=0-0", [(0, 1)]),
        ("bytes=0-1, 5-6 ,-1", [(0, 2), (5, 7), (99, 100)]),
        ("bytes=50-59,0-9", [(50, 60), (0, 10)]),
        ("bytes=0-9,200-300", [(0, 10)]),
        ("bytes=0-50,40-60", []),
        ("bytes=9-0", []),
        ("bytes=-", []),
        ("bytes=a-b", []),
        ("bytes=", []),
        ("bytes=1", []),
        ("items=0-9", []),
        ("bytes=" + ",".join(f"{i}-{i}" for i in range(ranges.MAX_RANGES + 1)), []),
        ("bytes=99999999999999999999-", []),
    ],
)
def test_ranges(header: str | None, found: list[tuple[int, int]]) -> None:
    assert ranges.parse(header, SIZE) == found


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=500-,600-"])
def test_unsatisfiable(header: str) -> None:
    with pytest.raises(ranges.Unsatisfiable):
        ranges.parse(header, SIZE)


def test_nothing_of_an_empty_file_can_be_had() -> None:
    with pytest.raises(ranges.Unsatisfiable):
        ranges.parse("bytes=0-", 0)
