"""Kinds of graphs that quantizers get wrong: a static file says what the float file says, with and without the runtime's optimizations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from engine.formats.onnx import runtime
from engine.formats.onnx.naming import FreshNames
from engine.methods.quantization import graph
from tests.engine.methods.quantization.checking import decibels, dynamic, outputs, static
from tests.engine.small import save

RNG = np.random.default_rng(0)
IMAGES = {"x": RNG.standard_normal((16, 3, 6, 6)).astype(np.float32)}
ROWS = {"x": RNG.standard_normal((16, 24)).astype(np.float32)}
Node = onnx.NodeProto


def normal(*shape: int, scale: float = 0.4) -> np.ndarray:
    return (np.random.default_rng([7, *shape]).standard_normal(shape) * scale).astype(np.float32)


def node(kind: str, inputs: str, outputs: str, name: str = "", **attributes: Any) -> Node:
    """Names of tensors are separated by blanks; `-` is one that is left out."""
    return helper.make_node(kind, ["" if item == "-" else item for item in inputs.split()], outputs.split(), name, **attributes)


CONSTANTS = {
    "w1": normal(8, 3, 3, 3),
    "b1": normal(8),
    "w2": normal(8, 8, 3, 3),
    "v": normal(5, 8),
    "c": normal(5),
    "low": np.float32(-0.3),
    "above": np.float32(0.25),
    "high": np.float32(1.0),
    "six": np.float32(6.0),
    "slope": normal(8, 1, 1),
}
FIRST, SECOND = node("Conv", "x w1 b1", "h", "first", pads=[1] * 4), node("Conv", "r w2", "s", "second", pads=[1] * 4)
END = [node("GlobalAveragePool", "s", "p"), node("Flatten", "p", "f"), node("Gemm", "f v c", "y", "fc", transB=1)]
BETWEEN: dict[str, list[Node]] = {
    "relu": [node("Relu", "h", "r")],
    "relu twice": [node("Relu", "h", "q"), node("Relu", "q", "r")],
    "relu then clip": [node("Relu", "h", "q"), node("Clip", "q - six", "r")],
    "clip to six": [node("Relu", "h", "z"), node("Clip", "z low six", "r")],
    "clip below zero": [node("Clip", "h low high", "r")],
    "clip above zero": [node("Clip", "h above high", "r")],
    "clip from above alone": [node("Clip", "h - high", "r")],
    "clip from below alone": [node("Clip", "h above", "r")],
    "clip at what is computed": [node("ReduceMax", "x", "top", keepdims=0), node("Clip", "h - top", "r")],
    "relu beside": [node("Relu", "h", "q"), node("Add", "q h", "r")],
    "relu after adding": [node("Conv", "x w1", "i", pads=[1] * 4), node("Add", "h i", "q"), node("Relu", "q", "r")],
    "leaky": [node("LeakyRelu", "h", "r", alpha=0.2)],
    "slopes": [node("PRelu", "h slope", "r")],
    "gate": [node("Sigmoid", "h", "q"), node("Mul", "h q", "r")],
    "gelu": [node("Erf", "h", "e"), node("Mul", "h e", "r")],
    "concatenated halves": [node("Split", "h", "q t", axis=1), node("Concat", "t q", "r", axis=1)],
    "padded": [node("Relu", "h", "q"), node("Identity", "q", "r")],
    "negated": [node("Neg", "h", "q"), node("Relu", "q", "r")],
}


@pytest.mark.parametrize("kind", BETWEEN)
@pytest.mark.parametrize("seen", ["", "h", "r"])
def test_what_stands_between_two_convolutions_keeps_what_it_does(tmp_path: Path, kind: str, seen: str) -> None:
    """`seen` is an output of the graph too: what is rounded for a reader behind an activation must not be cut for it."""
    results = {"y": ["batch", 5]} | ({seen: ["batch", 8, 6, 6]} if seen else {})
    path = save(tmp_path / "net.onnx", [FIRST, *BETWEEN[kind], SECOND, *END], CONSTANTS, {"x": ["batch", 3, 6, 6]}, results)
    before = outputs(path, IMAGES)
    for params in ({}, {"symmetric": True, "operators": "all"}) if not seen else ({},):
        file, chosen, blamed = static(path, [IMAGES], tmp_path, **params)
        assert not blamed
        assert {"first", "second"} <= set(chosen.weights)
        assert decibels(before, outputs(file, IMAGES, optimized=False)) > (22 if params else 27)
        assert decibels(before, outputs(file, IMAGES)) > (22 if params else 25)


BIASES: dict[str, Any] = {
    "vector": normal(10),
    "row": normal(1, 10),
    "one": normal(1),
    "number": np.float32(0.3),
    "none": None,
    "matrix": normal(16, 10),
}


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("attributes", [{}, {"alpha": 0.5, "beta": 2.0}, {"transB": 1, "beta": 0.0}, {"transB": 1, "alpha": 3.0}], ids=str)
def test_gemm_with_any_bias_and_factors(tmp_path: Path, bias: str, attributes: dict[str, Any]) -> None:
    weights = {"w": normal(10, 24) if attributes.get("transB") else normal(24, 10), "u": normal(10, 4)}
    if BIASES[bias] is not None:
        weights["c"] = BIASES[bias]
    nodes = [
        node("Gemm", "x w c" if "c" in weights else "x w", "h", "first", **attributes),
        node("Relu", "h", "r"),
        node("MatMul", "r u", "y", "last"),
    ]
    path = save(tmp_path / "net.onnx", nodes, weights, {"x": [16, 24]}, {"y": [16, 4]})
    before = outputs(path, ROWS)
    file, chosen, blamed = static(path, [ROWS], tmp_path)
    assert not blamed
    assert set(chosen.weights) == {"first", "last"}
    for found in (outputs(file, ROWS, optimized=False), outputs(file, ROWS), outputs(dynamic(path, tmp_path), ROWS)):
        assert decibels(before, found) > 28


@pytest.mark.parametrize("size", [1e5, 1e9])
def test_a_bias_that_drowns_the_products_does_not_overflow(tmp_path: Path, size: float) -> None:
    bias = np.float32([size, -size, 1.0, 0.0])
    path = save(
        tmp_path / "net.onnx", [node("Gemm", "x w c", "y", "fc")], {"w": normal(24, 4) * 1e-4, "c": bias}, {"x": ["n", 24]}, {"y": ["n", 4]}
    )
    file, _, blamed = static(path, [ROWS], tmp_path)
    assert not blamed
    assert decibels(outputs(path, ROWS), outputs(file, ROWS)) > 60
    assert np.abs(outputs(path, ROWS)["y"][:, 2:] - outputs(file, ROWS)["y"][:, 2:]).max() < 1e-3


@pytest.mark.parametrize("group", [1, 2, 8])
@pytest.mark.parametrize("bias", [False, True])
def test_transposed_convolutions_in_groups(tmp_path: Path, group: int, bias: bool) -> None:
    weights = {"w1": normal(8, 3, 3, 3), "w2": normal(8, 16 // group, 2, 2)} | ({"b2": normal(16)} if bias else {})
    nodes = [
        node("Conv", "x w1", "h", "c", pads=[1] * 4),
        node("ConvTranspose", "h w2 b2" if bias else "h w2", "y", "t", group=group, strides=[2, 2]),
    ]
    path = save(tmp_path / "net.onnx", nodes, weights, {"x": ["n", 3, 6, 6]}, {"y": ["n", 16, 12, 12]})
    file, chosen, blamed = static(path, [IMAGES], tmp_path)
    assert not blamed
    assert set(chosen.weights) == {"c", "t"}
    assert decibels(outputs(path, IMAGES), outputs(file, IMAGES)) > 30
    assert decibels(outputs(path, IMAGES), outputs(dynamic(path, tmp_path), IMAGES)) > 30


@pytest.mark.parametrize("shape", [(24, 6), (1, 24, 6), (4, 24, 6), (24,)])
def test_weights_of_every_rank(tmp_path: Path, shape: tuple[int, ...]) -> None:
    nodes = [node("MatMul", "x w", "y", "m"), node("MatMul", "x v", "z", "n")]
    out = ["n", 4, 5] if len(shape) == 1 else ["n", 4, 5, 6]
    feed = {"x": RNG.standard_normal((8, 4, 5, 24)).astype(np.float32)}
    path = save(
        tmp_path / "net.onnx", nodes, {"w": normal(*shape), "v": normal(24, 3)}, {"x": ["n", 4, 5, 24]}, {"y": out, "z": ["n", 4, 5, 3]}
    )
    file, _, blamed = static(path, [feed], tmp_path)
    assert not blamed
    for by_channel in (True, False):
        assert decibels(outputs(path, feed), outputs(dynamic(path, tmp_path, by_channel=by_channel), feed)) > 28
    assert decibels(outputs(path, feed), outputs(file, feed)) > 28


def test_a_tied_weight_is_stored_once(tmp_path: Path) -> None:
    nodes = [
        node("Gather", "table ids", "rows", "embed"),
        node("Relu", "rows", "h"),
        node("Transpose", "table", "turned", perm=[1, 0]),
        node("MatMul", "h turned", "y", "head"),
        node("Gemm", "flat table", "z", "again", transB=1),
        node("ReduceMean", "h", "flat", axes=[1], keepdims=0),
    ]
    nodes[4], nodes[5] = nodes[5], nodes[4]
    path = tmp_path / "net.onnx"
    save(path, nodes, {"table": normal(40, 24)}, {"ids": (TensorProto.INT64, ["n", 5])}, {"y": ["n", 5, 40], "z": ["n", 40]})
    feed = {"ids": RNG.integers(0, 40, (16, 5))}
    file, _, blamed = static(path, [feed], tmp_path)
    assert not blamed
    for found in (file, dynamic(path, tmp_path)):
        graph.finish(found)
        model = onnx.load(found)
        assert sum(sorted(item.dims) == [24, 40] for item in model.graph.initializer) == 1
        assert decibels(outputs(path, feed), outputs(found, feed)) > 25
        assert not {node.op_type for node in kernels(found, tmp_path)} & {"Transpose", "MatMul", "Gemm"}, "products stay integer ones"


def kernels(path: Path, folder: Path) -> list[Node]:
    """What the runtime makes of a file as it loads it."""
    runtime.open_session(path, threads=1, save_optimized=folder / "kernels.onnx")
    return list(onnx.load(folder / "kernels.onnx").graph.node)


def test_a_weight_that_a_branch_reads_too_stays_there_for_it(tmp_path: Path) -> None:
    def branch(name: str, nodes: list[Node]) -> onnx.GraphProto:
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)])

    yes, no = branch("yes", [node("MatMul", "r w", "t", "inner")]), branch("no", [node("Relu", "h", "e", "other")])
    nodes = [
        node("MatMul", "x w", "h", "outer"),
        node("Relu", "h", "r"),
        helper.make_node("If", ["flag"], ["z"], "if", then_branch=yes, else_branch=no),
        node("MatMul", "z u", "y", "last"),
    ]
    inputs = {"x": ["n", 24], "flag": (TensorProto.BOOL, [])}
    path = save(tmp_path / "net.onnx", nodes, {"w": normal(24, 24), "u": normal(24, 4)}, inputs, {"y": ["n", 4]})
    for flag in (True, False):
        feed = {**ROWS, "flag": np.array(flag)}
        file, _, blamed = static(path, [feed], tmp_path)
        assert not blamed
        assert decibels(outputs(path, feed), outputs(file, feed, optimized=False)) > 28
        assert decibels(outputs(path, feed), outputs(file, feed)) > 28
        assert decibels(outputs(path, feed), outputs(dynamic(path, tmp_path), feed)) > 28


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_names_that_the_writer_would_choose_are_taken_already(tmp_path: Path, kind: str) -> None:
    """Whatever the writer makes up for a graph, the inner tensors and the nodes of the same graph may be called just that."""
    nodes = [FIRST, node("Relu", "h", "r", "relu"), SECOND, *END]
    path = save(tmp_path / "net.onnx", nodes, CONSTANTS, {"x": ["batch", 3, 6, 6]}, {"y": ["batch", 5]})
    write = (lambda file: static(file, [IMAGES], tmp_path)[0]) if kind == "static" else (lambda file: dynamic(file, tmp_path))
    for _ in range(2):
        file = write(path)
        written = onnx.load(file).graph
        made_up = [name for item in written.node for name in item.output if name != "y"] + [item.name for item in written.initializer]
        model = onnx.load(path)
        inner = [name for item in model.graph.node for name in item.output if name != "y"] + [item.name for item in model.graph.initializer]
        renamed = dict(zip(inner, sorted(made_up, reverse=True), strict=False))
        for index, item in enumerate(model.graph.node):
            item.name = sorted(part.name for part in written.node)[index]
            item.input[:] = [renamed.get(name, name) for name in item.input]
            item.output[:] = [renamed.get(name, name) for name in item.output]
        for tensor in model.graph.initializer:
            tensor.name = renamed[tensor.name]
        path = tmp_path / "renamed.onnx"
        onnx.save(model, path)
        again = onnx.load(write(path)).graph
        names = [name for item in again.node for name in item.output] + [item.name for item in again.initializer]
        assert len(set(names)) == len(names)
        assert len({item.name for item in again.node}) == len(again.node)
        assert decibels(outputs(path, IMAGES), outputs(write(path), IMAGES)) > 27


def test_fresh_names_are_new_in_subgraphs_too(tmp_path: Path) -> None:
    inner = helper.make_graph([node("Relu", "h", "t_1", "deep")], "b", [], [helper.make_tensor_value_info("t_1", TensorProto.FLOAT, None)])
    outer = helper.make_graph(
        [node("Relu", "x", "h"), helper.make_node("If", ["c"], ["t"], then_branch=inner, else_branch=inner)], "g", [], []
    )
    fresh = FreshNames(outer)
    assert [fresh.claim(name) for name in ("t", "t", "deep", "new", "new")] == ["t_2", "t_3", "deep_1", "new", "new_1"]


def test_a_graph_that_is_planned_holds_no_large_weights(tmp_path: Path) -> None:
    path = save(tmp_path / "net.onnx", [node("MatMul", "x w", "y", "m")], {"w": normal(512, 512)}, {"x": ["n", 512]}, {"y": ["n", 512]})
    assert graph.outline(path).ByteSize() < 1000


def test_an_average_of_elements_that_are_apart_stays_in_float(tmp_path: Path) -> None:
    """Between rows that are widened and a product that rounds: the runtime would make an operator of it that refuses its dilations."""
    path = tmp_path / "net.onnx"
    nodes = [
        node("Gather", "table ids", "rows", "embed"),
        node("AveragePool", "rows", "mean", "pool", kernel_shape=[2], dilations=[2]),
        node("MatMul", "mean w", "y", "product"),
    ]
    save(path, nodes, {"table": normal(9, 6), "w": normal(4, 5)}, {"ids": ["n", 3]}, {"y": ["n", 3, 5]}, opset=19)
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    onnx.save(model, path)
    feed = {"ids": np.random.default_rng(3).integers(0, 9, (40, 3))}
    for operators in ("weighted", "all"):
        found, chosen, _ = static(path, [feed], tmp_path, operators=operators)
        assert "product" in chosen.nodes
        assert decibels(outputs(path, feed), outputs(found, feed)) > 25
