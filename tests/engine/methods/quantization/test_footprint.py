from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from engine.methods.quantization import agreement, footprint
from tests.engine.small import save


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """Two values of 256 numbers for each number of an example."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"], "m"), helper.make_node("Relu", ["h"], ["y"], "r")]
    path = save(
        tmp_path / "net.onnx", nodes, {"w": np.ones((4, 256), np.float32)}, {"x": ["batch", "time", 4]}, {"y": ["batch", "time", 256]}
    )
    onnx.save(onnx.shape_inference.infer_shapes(onnx.load(path)), path)
    return path


def example(time: int) -> dict[str, np.ndarray]:
    return {"x": np.ones((1, time, 4), np.float32)}


def test_activations_are_counted_at_the_size_of_the_example(wide: Path) -> None:
    assert footprint.activation_bytes(wide, example(10)) == 2 * 10 * 256 * 4


@pytest.mark.parametrize(
    ("time", "asked", "size"),
    [(10, None, 32), (8 << 10, None, 8), (64 << 10, None, 1), (256 << 10, None, 1), (10, 100, 100), (8 << 10, 3, 3)],
)
def test_a_batch_holds_what_the_bound_allows(wide: Path, time: int, asked: int | None, size: int) -> None:
    found = footprint.choose(wide, example(time), asked, threads=1)
    assert found.batch_size == size
    assert size * footprint.activation_bytes(wide, example(time)) <= footprint.ACTIVATION_BYTES or size in (1, asked)


@pytest.mark.parametrize(("peaks", "by_priority"), [((100, 50), True), ((100, 95), False), ((100, 200), False)])
def test_the_order_that_needs_less_is_taken_where_one_example_is_too_much(
    wide: Path, monkeypatch: pytest.MonkeyPatch, peaks: tuple[int, int], by_priority: bool
) -> None:
    asked: list[bool] = []

    def growth(graph: Path, feed: object, *, by_priority: bool, threads: int) -> int:
        asked.append(by_priority)
        return peaks[by_priority]

    monkeypatch.setattr(footprint, "_growth", growth)
    needed = 2 * (256 << 10) * 256 * 4
    assert footprint.choose(wide, example(256 << 10), None, threads=1) == footprint.Footprint(1, by_priority, needed)
    assert asked == [False, True]


def test_the_growth_of_a_run_is_seen(wide: Path) -> None:
    large = footprint._growth(wide, example(64 << 10), by_priority=True, threads=1)
    assert 64 << 20 <= large <= 512 << 20


def test_large_examples_are_compared_one_alone() -> None:
    assert len(agreement.examples(iter([{}] * 10), 1 << 20)) == agreement.COMPARED_EXAMPLES
    assert len(agreement.examples(iter([{}] * 10), 1 << 28)) == 1


def test_the_orders_are_not_tried_where_little_is_alive_at_one_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain of forty values of 8 MiB, two of which are alive at one time; read once more at the end, all of them are."""
    monkeypatch.setattr(footprint, "_growth", lambda *_, by_priority, **__: 50 if by_priority else 100)
    names = [f"h{place}" for place in range(41)]
    nodes = [helper.make_node("Identity", [before], [after]) for before, after in zip(["x", *names[:-1]], names, strict=True)]
    for also, by_priority in (([], False), ([helper.make_node("Sum", names, ["z"])], True)):
        path = save(tmp_path / "net.onnx", [*nodes, *also], {}, {"x": ["n", 1 << 21]}, {("z" if also else names[-1]): ["n", 1 << 21]})
        found = footprint.choose(path, {"x": np.zeros((1, 1 << 21), np.float32)}, None, threads=1)
        assert (found.batch_size, found.by_priority) == (1, by_priority)
