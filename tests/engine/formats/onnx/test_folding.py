"""Constants that a runtime would compute before anything runs: refused by their size, before they exist."""

import resource
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from engine.contract.errors import EngineError
from engine.formats.onnx.checks import check_graph
from engine.formats.onnx.file import read_model
from engine.formats.onnx.folding import check_folding

HUGE = 10**12


def constant(name: str, value: object, dtype: type = np.int64) -> NodeProto:
    """A Constant node."""
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value, dtype)))


def write(folder: Path, nodes: Sequence[NodeProto], last: str, *, opset: int = 17) -> Path:
    """A graph that adds something of `last` to its input: the sum over all of it, cast to float."""
    nodes = [
        *nodes,
        helper.make_node("Cast", [last], ["as_float"], to=TensorProto.FLOAT),
        constant("flat", [-1]),
        helper.make_node("Reshape", ["as_float", "flat"], ["one_row"]),
        helper.make_node("ReduceMax", ["one_row"], ["most"], keepdims=0),
        helper.make_node("Add", ["x", "most"], ["y"]),
    ]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy"]
    model = helper.make_model(
        helper.make_graph(nodes, "g", info[:1], info[1:]), opset_imports=[helper.make_opsetid("", opset)], ir_version=8
    )
    path = folder / "model.onnx"
    onnx.save(model, str(path))
    return path


def through_arithmetic(last: str) -> list[NodeProto]:
    """`last` is a million times a million, behind casts and slices."""
    return [
        constant("million", [10**6, 5]),
        constant("zero", [0]),
        constant("one", [1]),
        helper.make_node("Slice", ["million", "zero", "one"], ["first"]),
        helper.make_node("Mul", ["first", "first"], ["product"]),
        helper.make_node("Squeeze", ["product"], [last]),
    ]


def ranged(limit: str = "limit") -> list[NodeProto]:
    """A range from nothing to `limit`."""
    return [constant("start", 0), constant("step", 1), helper.make_node("Range", ["start", limit, "step"], ["big"])]


def doubled(times: int) -> list[NodeProto]:
    """Sixteen numbers, joined to themselves again and again."""
    nodes = [constant("c0", range(16))]
    return [*nodes, *(helper.make_node("Concat", [f"c{i}", f"c{i}"], [f"c{i + 1}"], axis=0) for i in range(times))]


BOMBS: dict[str, tuple[list[NodeProto], str]] = {
    "range": ([constant("limit", HUGE), *ranged()], "big"),
    "range through arithmetic": ([*through_arithmetic("limit"), *ranged()], "big"),
    "constant of shape": ([constant("shape", [10**6, 10**5]), helper.make_node("ConstantOfShape", ["shape"], ["big"])], "big"),
    "expand": ([constant("v", [1]), constant("shape", [10**5, 10**6]), helper.make_node("Expand", ["v", "shape"], ["big"])], "big"),
    "tile": ([constant("v", [[1]]), constant("times", [10**5, 10**5]), helper.make_node("Tile", ["v", "times"], ["big"])], "big"),
    "pad": ([constant("v", [1]), constant("pads", [0, HUGE]), helper.make_node("Pad", ["v", "pads"], ["big"])], "big"),
    "outer product": (
        [
            constant("n", [10**5]),
            helper.make_node("ConstantOfShape", ["n"], ["ones"]),
            constant("column", [-1, 1]),
            constant("row", [1, -1]),
            helper.make_node("Reshape", ["ones", "column"], ["left"]),
            helper.make_node("Reshape", ["ones", "row"], ["right"]),
            helper.make_node("MatMul", ["left", "right"], ["big"]),
        ],
        "big",
    ),
    "broadcast sum": (
        [
            constant("n", [10**5]),
            helper.make_node("ConstantOfShape", ["n"], ["ones"]),
            constant("axis", [1]),
            helper.make_node("Unsqueeze", ["ones", "axis"], ["column"]),
            helper.make_node("Add", ["column", "ones"], ["big"]),
        ],
        "big",
    ),
    "one hot": (
        [
            constant("n", [10**5]),
            helper.make_node("ConstantOfShape", ["n"], ["zeros"]),
            constant("depth", 10**6),
            constant("values", [0, 1]),
            helper.make_node("OneHot", ["zeros", "depth", "values"], ["big"]),
        ],
        "big",
    ),
    "doubling": (doubled(40), "c40"),
    "many of moderate size": (
        [
            constant("n", [5 * 10**6]),
            *(helper.make_node("ConstantOfShape", ["n"], [f"p{i}"]) for i in range(100)),
            helper.make_node("Sum", [f"p{i}" for i in range(100)], ["big"]),
        ],
        "big",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_constant_that_would_fill_the_memory_is_refused_before_it_exists(tmp_path: Path, name: str) -> None:
    nodes, last = BOMBS[name]
    started = time.process_time()
    with pytest.raises(EngineError) as caught:
        read_model(write(tmp_path, nodes, last))
    assert time.process_time() - started < 2
    assert caught.value.code == "tensor_limit_exceeded"


def test_in_a_branch_it_is_refused_as_well(tmp_path: Path) -> None:
    info = helper.make_tensor_value_info("big", TensorProto.INT64, None)
    branch = helper.make_graph([constant("limit", HUGE), *ranged()], "branch", [], [info])
    small = helper.make_graph([constant("big", [1])], "other", [], [info])
    nodes = [constant("yes", True, np.bool_), helper.make_node("If", ["yes"], ["chosen"], then_branch=branch, else_branch=small)]
    with pytest.raises(EngineError, match="constant of 1000000000000 elements"):
        read_model(write(tmp_path, nodes, "chosen"))


@pytest.mark.parametrize(
    ("nodes", "last"),
    [
        ([constant("limit", 1000), *ranged()], "big"),
        (doubled(10), "c10"),
        ([constant("v", [[1, 2]]), constant("times", [3, 4]), helper.make_node("Tile", ["v", "times"], ["t"])], "t"),
        ([constant("v", [1, 2]), constant("shape", [500, 2]), helper.make_node("Expand", ["v", "shape"], ["e"])], "e"),
        ([constant("n", [4, 500]), helper.make_node("ConstantOfShape", ["n"], ["z"])], "z"),
        ([constant("v", range(8)), constant("pads", [2, 3]), helper.make_node("Pad", ["v", "pads"], ["p"])], "p"),
    ],
)
def test_ordinary_constants_pass_and_run(tmp_path: Path, nodes: list[NodeProto], last: str) -> None:
    path = write(tmp_path, nodes, last)
    assert len(read_model(path).graph.node) == len(nodes) + 5
    (output,) = ort.InferenceSession(str(path)).run(None, {"x": np.zeros((2, 4), np.float32)})
    assert output.shape == (2, 4)


def test_looking_is_linear_in_the_number_of_nodes(tmp_path: Path) -> None:
    """20,000 sums of constants, each of which a value is computed for."""
    nodes = [constant("c0", [1, 2, 3, 4]), *(helper.make_node("Add", [f"c{i}", "c0"], [f"c{i + 1}"]) for i in range(20_000))]
    path = write(tmp_path, nodes, "c20000")
    started = time.process_time()
    read_model(path)
    assert time.process_time() - started < 5


def test_chains_of_steps_over_a_large_weight_pass(tmp_path: Path) -> None:
    """Ten steps over 64 MiB: none is larger than the one before."""
    weight = numpy_helper.from_array(np.zeros((1 << 12, 1 << 12), np.float32), "c0")
    steps = [helper.make_node(name, [f"c{i}"], [f"c{i + 1}"]) for i, name in enumerate(["Neg", "Abs", "Softplus", "Gelu", "Transpose"] * 2)]
    path = write(tmp_path, steps, "c10")
    model = onnx.load(str(path))
    model.graph.initializer.append(weight)
    model.opset_import[0].version = 20
    check_folding(model)


def test_a_vector_of_a_hundred_million_elements_does_not_fill_the_memory_of_shape_inference() -> None:
    """onnx keeps 140 bytes for each element of a vector that it follows: 14 GB here, where a file needs forty bytes to say so."""
    info = [helper.make_tensor_value_info(name, TensorProto.INT32, [10**8]) for name in "xy"]
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.INT64),
        helper.make_node("Cast", ["wide"], ["y"], to=TensorProto.INT32),
    ]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    check_graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
