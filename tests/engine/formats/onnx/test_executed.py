"""What a file whose control flow depends on the data really multiplies."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine.formats.onnx import executed
from engine.formats.onnx.counting import count_onnx
from engine.formats.onnx.executed import decides_by_input, executed_macs
from tests.engine.small import save

ALWAYS, MORE = 6 * 6, 6 * 5 + 5 * 6
"""MACs of an example before the If, and in its branch."""


def branch(name: str, nodes: list[onnx.NodeProto], output: str, weights: dict[str, np.ndarray] | None = None) -> onnx.GraphProto:
    constants = [numpy_helper.from_array(value, key) for key, value in (weights or {}).items()]
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)], constants)


def deciding(path: Path, condition: str = "any") -> Path:
    """x·A, and for the rows whose first number is above 0 two more products; they are none of the rows' neighbours' business."""
    rng = np.random.default_rng(0)
    shapes = {"A": (6, 6), "B": (6, 5), "C": (5, 6), "D": (5, 6)}
    drawn = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    inner = drawn.pop("C")
    more = [
        helper.make_node("Compress", ["h", "go"], ["rows"], "same", axis=0),
        helper.make_node("MatMul", ["rows", "B"], ["b"], "same"),
        helper.make_node("MatMul", ["b", "C"], ["c"], "same"),
        helper.make_node("NonZero", ["go"], ["places"]),
        helper.make_node("Transpose", ["places"], ["index"]),
        helper.make_node("ScatterND", ["h", "index", "c"], ["more"]),
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "A"], ["h"], "same"),
        helper.make_node("MatMul", ["B", "D"], ["constant"], "same"),
        helper.make_node("Gather", ["x", "zero"], ["first"], axis=1),
        helper.make_node("Greater", ["first", "threshold"], ["go"]),
        helper.make_node("Cast", ["go"], ["numbers"], to=TensorProto.INT32),
        helper.make_node("ReduceMax", ["numbers"], ["largest"], keepdims=0),
        helper.make_node("Cast", ["largest"], ["any"], to=TensorProto.BOOL),
        helper.make_node(
            "If",
            [condition],
            ["y"],
            then_branch=branch("then", more, "more", {"C": inner}),
            else_branch=branch("else", [helper.make_node("Identity", ["h"], ["less"])], "less"),
        ),
    ]
    constants = {**drawn, "zero": np.array(0), "threshold": np.array(0, np.float32), "always": np.array(True)}
    return save(path, nodes, constants, {"x": ["n", 6]}, {"y": ["n", 6]})


@pytest.mark.parametrize("size", [1, 4, 10])
@pytest.mark.parametrize("most", [1, 100_000])
def test_every_operator_counts_as_often_as_it_ran(tmp_path: Path, size: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executed, "_MOST_EVENTS", most)
    path = deciding(tmp_path / "m.onnx")
    inputs = np.random.default_rng(1).standard_normal((20, 6)).astype(np.float32)
    feeds = [{"x": inputs[start : start + size]} for start in range(0, 20, size)]
    assert executed_macs(path, feeds, threads=1) == 20 * ALWAYS + int((inputs[:, 0] > 0).sum()) * MORE
    assert executed_macs(path, [{"x": -np.abs(inputs)}], threads=1) == 20 * ALWAYS
    assert executed_macs(path, [{"x": np.abs(inputs)}], threads=1) == 20 * (ALWAYS + MORE)


def test_a_count_that_the_data_decide_is_left_to_the_examples(tmp_path: Path) -> None:
    path = deciding(tmp_path / "m.onnx")
    assert count_onnx(path).macs_count is None
    assert decides_by_input(onnx.load(path))


def test_a_constant_condition_decides_nothing(tmp_path: Path) -> None:
    assert not decides_by_input(onnx.load(deciding(tmp_path / "m.onnx", condition="always")))


def test_without_control_flow_it_is_the_static_count(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {"k": rng.standard_normal((4, 2, 3, 3)).astype(np.float32), "w": rng.standard_normal((4 * 16, 3)).astype(np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    path = save(tmp_path / "m.onnx", nodes, weights, {"x": ["n", 2, 8, 8]}, {"y": ["n", 3]})
    feed = {"x": rng.standard_normal((5, 2, 8, 8)).astype(np.float32)}
    assert executed_macs(path, [feed], threads=1) == 5 * count_onnx(path).macs_count
    assert not decides_by_input(onnx.load(path))
