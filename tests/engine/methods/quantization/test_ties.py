"""Matrices that stand in a file turned as well."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from engine.methods.quantization.ties import FLOAT, turn_in_graph, turned
from tests.engine.small import save

RNG = np.random.default_rng(0)


def network(folder: Path, other: np.ndarray) -> Path:
    nodes = [
        helper.make_node("MatMul", ["x", "b"], ["h"], "first"),
        helper.make_node("Cast", ["n"], ["i"], "cast", to=TensorProto.INT64),
        helper.make_node("Gather", ["a", "i"], ["g"], "pick"),
        helper.make_node("Add", ["g", "x"], ["y"], "sum"),
    ]
    table = np.arange(40 * 32, dtype=np.float32).reshape(40, 32)
    inputs = {"x": ["batch", 32], "n": ["batch"]}
    return save(
        folder / "net.onnx",
        nodes,
        {"b": other if other.size else table.T.copy(), "a": table},
        inputs,
        {"h": ["batch", 40], "y": ["batch", 32]},
    )


def test_the_one_that_is_picked_from_stays_and_the_other_is_turned_in_the_graph(tmp_path: Path) -> None:
    path = network(tmp_path, np.zeros(0, np.float32))
    model = onnx.load(path)
    found = turned(model, FLOAT)
    assert found == {"b": "a"}
    turn_in_graph(model, found)
    assert [item.name for item in model.graph.initializer] == ["a"]
    onnx.checker.check_model(model)
    feed = {"x": RNG.standard_normal((3, 32)).astype(np.float32), "n": np.float32([0, 39, 7])}
    for before, after in zip(*(ort.InferenceSession(m.SerializeToString()).run(None, feed) for m in (onnx.load(path), model)), strict=True):
        np.testing.assert_array_equal(before, after)


def test_matrices_that_differ_anywhere_are_no_pair(tmp_path: Path) -> None:
    table = np.arange(40 * 32, dtype=np.float32).reshape(40, 32)
    changed = table.T.copy()
    changed[-1, -1] += 1
    for other in (changed, table.reshape(32, 40), table.T[::-1].copy()):
        assert turned(onnx.load(network(tmp_path, other)), FLOAT) == {}
    assert turned(onnx.load(network(tmp_path, np.zeros(0, np.float32))), {TensorProto.INT8}) == {}
