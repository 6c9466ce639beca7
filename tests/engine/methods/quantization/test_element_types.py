"""Networks in float16, bfloat16 and double: what goes in and comes out keeps its type, and weights become integers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine.methods.quantization import dynamic_quantization, static_quantization
from engine.methods.quantization.single import to_single
from engine.methods.quantization.spec import DynamicQuantization, StaticQuantization
from engine.networks.network import Signature, TensorSpec
from tests.engine.methods.quantization.checking import decibels, outputs

RNG = np.random.default_rng(0)
WIDTH = 64
TYPES = {"float16": (TensorProto.FLOAT16, np.float16), "double": (TensorProto.DOUBLE, np.float64)}


def network(path: Path, kind: str) -> Path:
    """Two layers, an activation, a constant, and a Cast inside of an If, all in one type."""
    element, dtype = TYPES[kind]

    def branch(name: str, inputs: list[str]) -> onnx.GraphProto:
        nodes = [helper.make_node("Add" if len(inputs) > 1 else "Identity", inputs, [f"{name}_out"], name)]
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(f"{name}_out", element, None)])

    weights = {
        "w": RNG.standard_normal((WIDTH, WIDTH)) * 0.2,
        "b": RNG.standard_normal(WIDTH),
        "v": RNG.standard_normal((WIDTH, 10)) * 0.3,
        "shift": np.full(10, 0.5),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "v"], ["m"], "second"),
        helper.make_node("Cast", ["m"], ["n"], "cast", to=element),
        helper.make_node("If", ["flag"], ["y"], "if", then_branch=branch("yes", ["n", "shift"]), else_branch=branch("no", ["n"])),
    ]
    initializers = [numpy_helper.from_array(value.astype(dtype), name) for name, value in weights.items()]
    initializers.append(numpy_helper.from_array(np.array(True), "flag"))
    inputs, results = (helper.make_tensor_value_info(name, element, ["n", size]) for name, size in (("x", WIDTH), ("y", 10)))
    graph = helper.make_graph(nodes, "g", [inputs], [results], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


class Rows:
    """Examples in a network's type."""

    labels = None

    def __init__(self, dtype: type, count: int = 64) -> None:
        self.count = count
        self.values = np.random.default_rng(1).standard_normal((count, WIDTH)).astype(dtype)

    def batch(self, indices: np.ndarray) -> tuple[dict[str, np.ndarray], None]:
        return {"x": self.values[indices]}, None


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_types_stay_and_weights_become_integers(bench: Callable[..., Any], tmp_path: Path, kind: str, method: str) -> None:
    dtype = TYPES[kind][1]
    name = np.dtype(dtype).name
    signature = Signature((TensorSpec("x", (None, WIDTH), name),), (TensorSpec("y", (None, 10), name),))
    world = bench(network(tmp_path / "net.onnx", kind), signature=signature, splits={"train": Rows(dtype)})
    apply = static_quantization.apply if method == "static" else dynamic_quantization.apply
    file = apply(world.network, StaticQuantization() if method == "static" else DynamicQuantization(), world.context).file(
        tmp_path / "none.onnx"
    )
    feed = {"x": Rows(dtype, 32).values}
    assert decibels(outputs(tmp_path / "net.onnx", feed), outputs(file, feed)) > 28
    stored = onnx.load(file).graph.initializer
    assert (
        sum(int(np.prod(item.dims)) for item in stored if item.data_type == TensorProto.INT8 and len(item.dims) > 1)
        == WIDTH * WIDTH + WIDTH * 10
    )
    assert file.stat().st_size < (tmp_path / "net.onnx").stat().st_size
    assert "computed_in_float32" in world.warned()


def test_a_network_of_floats_is_left_as_it_is() -> None:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [], [], [numpy_helper.from_array(np.ones((2, 2), np.float32), "w")]
    )
    model = helper.make_model(graph)
    before = model.SerializeToString()
    assert to_single(model) is None
    assert model.SerializeToString() == before


def test_a_double_that_float32_cannot_hold_stays_finite() -> None:
    mask = numpy_helper.from_array(np.array([-1.7e308, -np.inf, 2.0]), "mask")
    weight = numpy_helper.from_array(np.ones((3, 3)), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "mask"], ["y"])], "g", [], [], [mask, weight]
    )
    model = helper.make_model(graph)
    assert to_single(model) == "float64"
    values = numpy_helper.to_array(next(item for item in model.graph.initializer if item.name == "mask"))
    assert values.dtype == np.float32
    assert values.tolist() == [np.finfo(np.float32).min, -np.inf, 2.0]
