"""Bytes that the runtime carries through moving operators: it loads the file, and computes what it did without optimizations."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine.methods.quantization.carried import FIRST_OPSET, unsigned

RNG = np.random.default_rng(0)


def answers(proto: onnx.ModelProto, feed: dict[str, np.ndarray], *, optimize: bool) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, feed)[0]


def pair(opset: int, *, looked_up: bool, zero: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Signed bytes, widened and turned: rows of a table, or an activation."""
    constants = {"s": np.float32(0.05), "z": np.array(zero, np.int8)}
    if looked_up:
        constants["table"] = RNG.integers(-128, 128, (5, 4)).astype(np.int8)
        first, feed = helper.make_node("Gather", ["table", "x"], ["q"]), {"x": np.array([3, 0, 4])}
    else:
        first, feed = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]), {"x": RNG.standard_normal((3, 4)).astype(np.float32)}
    nodes = [first, helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]), helper.make_node("Transpose", ["d"], ["y"])]
    given = helper.make_tensor_value_info("x", TensorProto.INT64 if looked_up else TensorProto.FLOAT, feed["x"].shape)
    graph = helper.make_graph(
        nodes,
        "g",
        [given],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), feed


@pytest.mark.parametrize("looked_up", [False, True])
@pytest.mark.parametrize("zero", [0, -7])
@pytest.mark.parametrize("opset", [FIRST_OPSET, 23])
def test_signed_bytes_that_flow_become_unsigned_and_mean_the_same(opset: int, zero: int, looked_up: bool) -> None:
    proto, feed = pair(opset, looked_up=looked_up, zero=zero)
    want = answers(proto, feed, optimize=False)
    with pytest.raises(Exception, match="zero_point"):
        answers(proto, feed, optimize=True)
    moved = unsigned(proto)
    np.testing.assert_array_equal(answers(moved, feed, optimize=False), want)
    np.testing.assert_allclose(answers(moved, feed, optimize=True), want, atol=1e-6)
    assert TensorProto.INT8 not in {item.data_type for item in moved.graph.initializer}


def test_files_of_older_operator_sets_and_stored_weights_stay_as_they_are(tmp_path: Path) -> None:
    proto, _ = pair(20, looked_up=True, zero=0)
    before = proto.SerializeToString()
    assert unsigned(proto).SerializeToString() == before
    weight = numpy_helper.from_array(RNG.integers(-127, 128, (4, 3)).astype(np.int8), "w")
    nodes = [helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"]), helper.make_node("MatMul", ["x", "d"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weight, numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.array(0, np.int8), "z")],
    )
    stored = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    assert next(item.data_type for item in unsigned(stored).graph.initializer) == TensorProto.INT8
