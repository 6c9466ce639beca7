"""Batches of a file: how large they are, and in which order their outputs come."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper

from engine.contract import cost
from engine.measuring.examiner import running
from engine.measuring.examples import Batch, Examples
from tests.engine.small import save


class Drawn:
    """Examples of one shape."""

    name = "drawn"

    def __init__(self, count: int, shape: tuple[int, ...]) -> None:
        self.count, self._array = count, np.random.default_rng(0).standard_normal((count, *shape)).astype(np.float32)

    def batches(self, size: int) -> Iterator[Batch]:
        for start in range(0, self.count, size):
            part = self._array[start : start + size]
            yield Batch({"x": part, "other": part}, {}, len(part))

    def feed(self, size: int) -> dict[str, Any]:
        return {"x": self._array[:size]}

    def feeds(self, size: int, seed: int) -> Iterator[dict[str, Any]]:
        raise NotImplementedError


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "twice.onnx"
    save(path, [helper.make_node("Add", ["x", "x"], ["y"])], {}, {"x": ["batch", 3]}, {"y": ["batch", 3]})
    return path


@pytest.mark.parametrize(("shape", "large", "expected"), [((3,), False, 40), ((3,), True, 16), ((2**18,), False, 8), ((2**22,), True, 1)])
def test_large_files_and_large_examples_run_a_few_at_a_time(
    twice: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], large: bool, expected: int
) -> None:
    if large:
        monkeypatch.setattr(cost, "LARGE_FILE_BYTES", 1)
    examples: Examples = Drawn(1, shape)
    assert running.together(twice, examples, 40) == expected
    assert running.together(twice, examples, 1) == 1


@pytest.mark.parametrize("company", [[False] * 9, [True] * 9, [False, True, False, True, True, False, True, True, True]])
def test_outputs_come_in_order_whoever_computes_them(twice: Path, company: list[bool]) -> None:
    session, examples, asked = ort.InferenceSession(twice), Drawn(19, (3,)), iter(company)
    found = list(running.answers(session, examples.batches(3), lambda: next(asked)))
    assert [batch.count for batch, _ in found] == [3] * 6 + [1]
    for batch, (output,) in found:
        np.testing.assert_array_equal(output, 2 * batch.feed["x"])


@pytest.mark.parametrize("together", [True, False])
def test_two_batches_run_at_a_time_only_in_company(twice: Path, monkeypatch: pytest.MonkeyPatch, together: bool) -> None:
    meeting, threads, real = threading.Barrier(2, timeout=20), set[int](), running.given_by

    def met(session: ort.InferenceSession, batch: Batch) -> list[Any]:
        threads.add(threading.get_ident())
        if together:
            meeting.wait()  # nobody comes where batches run after one another
        return real(session, batch)

    monkeypatch.setattr(running, "given_by", met)
    found = list(running.answers(ort.InferenceSession(twice), Drawn(8, (3,)).batches(2), lambda: together))
    assert len(found) == 4
    assert len(threads) == 1 + together


def test_what_counts_is_taken_of_a_filled_batch(twice: Path) -> None:
    (given,) = running.given_by(ort.InferenceSession(twice), Batch({"x": np.ones((4, 3), np.float32)}, {}, 3))
    assert given.shape == (3, 3)
