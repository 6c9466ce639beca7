from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine.contract.errors import EngineError
from engine.methods.quantization.dynamic_quantization import apply
from engine.methods.quantization.spec import DynamicQuantization
from tests.engine.conftest import make_split
from tests.engine.methods.quantization.checking import decibels, outputs, pair_sum
from tests.engine.small import save


def quantize(bench: Any, **params: Any) -> Path:
    return apply(bench.network, DynamicQuantization(**params), bench.context).file(bench.context.work / "none.onnx")


def run(path: Path, **feed: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feed)[0]


def test_convolutions_and_products_run_in_integers(bench: Callable[..., Any], cnn_onnx: Path) -> None:
    world = bench()
    path = quantize(world, convolutions="integer")
    assert world.context.reported["operators"]["Conv"] == {"int8": 2, "float": 0}
    assert world.context.reported["operators"]["MatMul"] == {"int8": 1, "float": 0}
    test = make_split(500, 9)
    before, after = ((run(p, x=test.images).argmax(1) == test.labels).mean() for p in (cnn_onnx, path))
    assert abs(after - before) < 0.02
    stored = world.context.reported["weights_bytes"]
    assert sum(stored["after"].values()) < 0.35 * sum(stored["before"].values())


@pytest.mark.parametrize("dimensions", [1, 2])
def test_a_scale_a_channel_keeps_small_channels(bench: Callable[..., Any], tmp_path: Path, dimensions: int) -> None:
    rng = np.random.default_rng(0)
    kernel = (3,) * dimensions
    sizes = np.float32([1, 1e-3]).reshape(2, *(1,) * (dimensions + 1))
    weights = {"c.weight": rng.standard_normal((2, 3, *kernel)).astype(np.float32) * sizes, "c.bias": np.float32([0.5, -0.5])}
    nodes = [helper.make_node("Conv", ["x", "c.weight", "c.bias"], ["y"], "conv", kernel_shape=list(kernel))]
    shape, out = ["batch", 3, *(8,) * dimensions], ["batch", 2, *(6,) * dimensions]
    path = save(tmp_path / "conv.onnx", nodes, weights, {"x": shape}, {"y": out})
    x = rng.uniform(-1, 1, (4, 3, *(8,) * dimensions)).astype(np.float32)
    exact = run(path, x=x)

    def error(granularity: str) -> float:
        found = run(quantize(bench(path), granularity=granularity, reduce_range=False), x=x)
        small = exact[:, 1] + 0.5
        return float(np.abs(found[:, 1] - exact[:, 1]).max() / np.abs(small).max())

    assert error("channel") < 0.05
    assert error("tensor") > 0.3


@pytest.mark.parametrize(("params", "safe"), [({}, True), ({"target_cpu": "vnni"}, False), ({"reduce_range": False}, False)])
def test_no_two_weights_of_a_portable_file_saturate(bench: Callable[..., Any], params: dict[str, Any], safe: bool) -> None:
    stored = [
        numpy_helper.to_array(item)
        for item in onnx.load(quantize(bench(), convolutions="integer", **params)).graph.initializer
        if item.data_type == TensorProto.INT8
    ]
    largest = [pair_sum(array) for array in stored if array.ndim > 1]
    assert (max(largest) <= 128) is safe


def test_layers_inside_of_branches_are_quantized(bench: Callable[..., Any], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def branch(name: str) -> onnx.GraphProto:
        weight = numpy_helper.from_array(rng.standard_normal((64, 64)).astype(np.float32), f"{name}.weight")
        nodes = [helper.make_node("MatMul", ["x", f"{name}.weight"], [f"{name}_y"], f"{name}_matmul")]
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, ["batch", 64])], [weight])

    nodes = [helper.make_node("If", ["flag"], ["y"], "choice", then_branch=branch("yes"), else_branch=branch("no"))]
    path = save(tmp_path / "if.onnx", nodes, {}, {"x": ["batch", 64], "flag": (TensorProto.BOOL, [])}, {"y": ["batch", 64]})
    world = bench(path)
    result = quantize(world)
    assert world.context.reported["operators"]["MatMul"] == {"int8": 2, "float": 0}
    assert world.context.reported["weights_bytes"]["after"]["int8"] >= 2 * 64 * 64
    x = rng.standard_normal((3, 64)).astype(np.float32)
    for flag in (True, False):
        before, after = (run(p, x=x, flag=np.array(flag)) for p in (path, result))
        assert np.abs(before - after).max() < 0.05 * np.abs(before).max()


def test_a_recurrent_network(bench: Callable[..., Any], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((1, 64, 8)).astype(np.float32) * 0.3,
        "r": rng.standard_normal((1, 64, 16)).astype(np.float32) * 0.3,
    }
    nodes = [helper.make_node("LSTM", ["x", "w", "r"], ["y"], "lstm", hidden_size=16)]
    path = save(tmp_path / "lstm.onnx", nodes, weights, {"x": [5, "batch", 8]}, {"y": [5, 1, "batch", 16]})
    world = bench(path)
    result = quantize(world)
    assert world.context.reported["operators"]["LSTM"] == {"int8": 1, "float": 0}
    x = rng.standard_normal((5, 2, 8)).astype(np.float32)
    assert np.abs(run(path, x=x) - run(result, x=x)).max() < 0.05


@pytest.mark.parametrize(("params", "kinds"), [({}, ["FLOAT16", "FLOAT"]), ({"convolutions": "stored"}, ["INT8", "INT8"])])
def test_convolutions_before_a_recurrence_are_stored_in_16_bits(bench: Callable[..., Any], tmp_path: Path, params: Any, kinds: Any) -> None:
    """Small errors add up in a state; a weight that float16 cannot hold stays wide."""
    rng = np.random.default_rng(0)
    weights = {f"{n}.weight": rng.standard_normal((6, 6, 3)).astype(np.float32) for n in ("c0", "c1")}
    weights["c1.weight"][0] *= 1e5
    weights |= {
        "w": rng.standard_normal((1, 32, 6)).astype(np.float32) * 0.3,
        "r": rng.standard_normal((1, 32, 8)).astype(np.float32) * 0.3,
    }
    nodes = [
        helper.make_node("Conv", ["x", "c0.weight"], ["a"], "c0", kernel_shape=[3], pads=[1, 1]),
        helper.make_node("Tanh", ["a"], ["b"], "tanh"),
        helper.make_node("Conv", ["b", "c1.weight"], ["z"], "c1", kernel_shape=[3], pads=[1, 1]),
        helper.make_node("Transpose", ["b"], ["d"], "turn", perm=[2, 0, 1]),
        helper.make_node("LSTM", ["d", "w", "r"], ["y"], "lstm", hidden_size=8),
    ]
    path = save(tmp_path / "front.onnx", nodes, weights, {"x": ["batch", 6, 12]}, {"y": [12, 1, "batch", 8], "z": ["batch", 6, 12]})
    result = quantize(bench(path), **params)
    stored = {item.name: TensorProto.DataType.Name(item.data_type) for item in onnx.load(result).graph.initializer if len(item.dims) == 3}
    assert [next(kind for name, kind in stored.items() if name.startswith(f"{n}.weight")) for n in ("c0", "c1")] == kinds
    x = rng.standard_normal((2, 6, 12)).astype(np.float32)
    assert np.abs(run(path, x=x) - run(result, x=x)).max() < 0.1


def test_ignored_nodes_stay_in_float(bench: Callable[..., Any]) -> None:
    world = bench()
    quantize(world, ignore=["7", "conv0"], convolutions="integer")
    assert world.context.reported["operators"]["Conv"] == {"int8": 1, "float": 1}
    assert world.context.reported["operators"]["Gemm"] == {"int8": 0, "float": 1}
    assert "MatMul" not in world.context.reported["operators"]


def test_a_network_without_weights_is_refused(bench: Callable[..., Any], tmp_path: Path) -> None:
    path = save(tmp_path / "relu.onnx", [helper.make_node("Relu", ["x"], ["y"], "relu")], {}, {"x": ["batch", 4]}, {"y": ["batch", 4]})
    with pytest.raises(EngineError) as caught:
        quantize(bench(path))
    assert caught.value.code == "nothing_quantized"


def test_convolutions_compute_in_float_with_stored_weights_unless_asked(bench: Callable[..., Any], cnn_onnx: Path) -> None:
    x = {"x": make_split(40, 9).images}
    before = outputs(cnn_onnx, x)
    errors = {}
    for how in ("stored", "integer"):
        world = bench()
        path = quantize(world, convolutions=how)
        errors[how] = decibels(before, outputs(path, x))
        assert world.context.reported["operators"]["Conv"] == {"int8": 0, "float": 2} if how == "stored" else {"int8": 2, "float": 0}
        weights = [item for item in onnx.load(path).graph.initializer if len(item.dims) == 4 and np.prod(item.dims) > 64]
        assert len(weights) == 2
        assert all(item.data_type == TensorProto.INT8 for item in weights)
    assert errors["stored"] > errors["integer"]
