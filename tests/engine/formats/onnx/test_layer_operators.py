"""Convolutions, linear, recurrent, attention and normalization layers, whole and in pieces, against onnxruntime."""

import numpy as np
import pytest
from torch import nn

from tests.engine.formats.onnx.graphs import BATCH, assert_same, ints, model, node, normal, scalar


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"strides": [2, 2], "pads": [1, 1, 1, 1]},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"strides": [2, 3], "auto_pad": "SAME_LOWER"},
        {"pads": [0, 1, 2, 0]},
        {"dilations": [2, 1], "pads": [2, 1, 2, 1]},
        {"auto_pad": "VALID"},
        {"group": 2},
    ],
)
def test_convolution_padding_and_stride(attributes: dict) -> None:
    group = attributes.get("group", 1)
    constants = {"w": normal(6, 4 // group, 3, 3), "b": normal(6)}
    proto = model([node("Conv", ["x", "w", "b"], ["y"], **attributes)], {"x": [BATCH, 4, 9, 8]}, ["y"], constants)
    assert_same(proto, {"x": normal(2, 4, 9, 8)}, {"x": normal(5, 4, 9, 8)})


def test_convolution_with_a_computed_weight() -> None:
    nodes = [node("Mul", ["w", "s"], ["w2"]), node("Mul", ["w2", "scale"], ["w3"]), node("Conv", ["x", "w3"], ["y"])]
    proto = model(nodes, {"x": [BATCH, 2, 5, 5], "scale": [1]}, ["y"], {"w": normal(3, 2, 3, 3), "s": normal(3, 1, 1, 1)})
    assert_same(proto, {"x": normal(2, 2, 5, 5), "scale": normal(1)})


@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [2, 2]},
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
        {"strides": [2, 2], "pads": [0, 1, 1, 0]},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"group": 2},
        {"dilations": [2, 2]},
        {"strides": [2, 2], "output_shape": [11, 11]},
    ],
)
def test_transposed_convolution(attributes: dict) -> None:
    group = attributes.get("group", 1)
    proto = model(
        [node("ConvTranspose", ["x", "w", "b"], ["y"], **attributes)],
        {"x": [BATCH, 4, 5, 5]},
        ["y"],
        {"w": normal(4, 3, 3, 3), "b": normal(3 * group)},
    )
    assert_same(proto, {"x": normal(2, 4, 5, 5)}, {"x": normal(3, 4, 5, 5)})


@pytest.mark.parametrize(
    ("attributes", "weight", "bias"),
    [
        ({"transB": 1}, normal(3, 4), normal(3)),
        ({}, normal(4, 3), normal(3)),
        ({"alpha": 0.5, "beta": 2.0, "transB": 1}, normal(3, 4), normal(3)),
        ({}, normal(4, 3), normal(1)),
        ({}, normal(4, 3), None),
    ],
)
def test_gemm(attributes: dict, weight: np.ndarray, bias: np.ndarray | None) -> None:
    constants = {"w": weight} if bias is None else {"w": weight, "b": bias}
    proto = model([node("Gemm", ["x", *constants], ["y"], **attributes)], {"x": [BATCH, 4]}, ["y"], constants)
    module = assert_same(proto, {"x": normal(2, 4)}, {"x": normal(5, 4)})
    assert [type(layer).__name__ for layer in module.children()] == ["Linear"]


@pytest.mark.parametrize("counted", [0, 1])
@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 0, 2, 1]])
@pytest.mark.parametrize(("strides", "dilations", "ceil"), [([1, 1], [2, 1], 0), ([2, 3], [2, 3], 0), ([1, 1], [1, 2], 1)])
def test_an_average_of_elements_that_are_apart(counted: int, pads: list[int], strides: list[int], dilations: list[int], ceil: int) -> None:
    attributes = {"pads": pads, "strides": strides, "dilations": dilations, "count_include_pad": counted, "ceil_mode": ceil}
    proto = model([node("AveragePool", ["x"], ["y"], kernel_shape=[3, 2], **attributes)], {"x": [BATCH, 3, 11, 12]}, ["y"], opset=19)
    assert_same(proto, {"x": normal(2, 3, 11, 12)}, {"x": normal(5, 3, 11, 12)})


@pytest.mark.parametrize("kind", ["TopK", "Split"])
def test_linear_layer_behind_a_part_of_several_outputs(kind: str) -> None:
    """Flattened: the layer looks back for features that were moved, and finds an operator of two outputs."""
    attributes = {"axis": 1} if kind == "TopK" else {"axis": 1, "num_outputs": 2}
    inputs = ["x", "k"] if kind == "TopK" else ["x"]
    nodes = [node(kind, inputs, ["a", "b"], **attributes), node("Flatten", ["a"], ["f"]), node("Gemm", ["f", "w"], ["y"])]
    constants = {"w": normal(8, 3), **({"k": ints(2)} if kind == "TopK" else {})}
    proto = model(nodes, {"x": [BATCH, 4, 4]}, ["y"], constants, opset=18)
    assert_same(proto, {"x": normal(2, 4, 4)}, {"x": normal(5, 4, 4)})


def test_gemm_of_flowing_matrices() -> None:
    proto = model([node("Gemm", ["x", "z"], ["y"], transA=1, alpha=0.5)], {"x": [BATCH, 4], "z": [BATCH, 3]}, ["y"])
    assert_same(proto, {"x": normal(5, 4), "z": normal(5, 3)})


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_recurrent_layer_with_initial_state(kind: str, direction: str) -> None:
    gates, directions = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind], 2 if direction == "bidirectional" else 1
    constants = {"w": normal(directions, gates * 5, 3), "r": normal(directions, gates * 5, 5), "b": normal(directions, 2 * gates * 5)}
    attributes = {"hidden_size": 5, "direction": direction, **({"linear_before_reset": 1} if kind == "GRU" else {})}
    outputs = ["y", "h", "c"] if kind == "LSTM" else ["y", "h"]
    inputs = ["xt", "w", "r", "b", "", "s"] + (["s"] if kind == "LSTM" else [])
    nodes = [node("Transpose", ["x"], ["xt"], perm=[1, 0, 2]), node(kind, inputs, outputs, **attributes)]
    proto = model(nodes, {"x": [BATCH, 4, 3], "s": [directions, BATCH, 5]}, outputs, constants)
    assert_same(proto, {"x": normal(2, 4, 3), "s": normal(directions, 2, 5)}, {"x": normal(3, 4, 3), "s": normal(directions, 3, 5)})


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("causal", [0, 1])
def test_attention_of_opset_23(flat: bool, causal: int) -> None:
    shape = [BATCH, 6, 8] if flat else [BATCH, 2, 6, 4]
    attributes = {"q_num_heads": 2, "kv_num_heads": 2} if flat else {}
    proto = model([node("Attention", ["q", "k", "v"], ["y"], is_causal=causal, **attributes)], dict.fromkeys("qkv", shape), ["y"], opset=23)
    sizes = shape[1:]
    assert_same(proto, {name: normal(3, *sizes, seed=seed) for seed, name in enumerate("qkv")})


@pytest.mark.parametrize("kind", ["LayerNormalization", "GroupNormalization", "InstanceNormalization", "RMSNormalization"])
def test_normalization_layer(kind: str) -> None:
    per_channel = kind in ("GroupNormalization", "InstanceNormalization")
    constants = {"s": normal(4 if per_channel else 5), "b": normal(4 if per_channel else 5, seed=1)}
    attributes = {"num_groups": 2} if kind == "GroupNormalization" else {"axis": -1} if kind == "LayerNormalization" else {}
    inputs = ["x", "s"] if kind == "RMSNormalization" else ["x", "s", "b"]
    proto = model([node(kind, inputs, ["y"], epsilon=1e-3, **attributes)], {"x": [BATCH, 4, 5]}, ["y"], constants, opset=23)
    assert_same(proto, {"x": normal(2, 4, 5)}, {"x": normal(3, 4, 5)})


@pytest.mark.parametrize("rank", [2, 3, 4, 5])
def test_batch_normalization_on_every_rank(rank: int) -> None:
    constants = {"s": normal(4), "b": normal(4, seed=1), "m": normal(4, seed=2), "v": np.abs(normal(4, seed=3)) + 0.5}
    shape = [4, 3, 3, 3][: rank - 1]
    proto = model([node("BatchNormalization", ["x", *constants], ["y"])], {"x": [BATCH, *shape]}, ["y"], constants)
    assert_same(proto, {"x": normal(2, *shape)}, {"x": normal(3, *shape)})


def test_keras_habits_become_plain_layers_that_pruning_can_follow() -> None:
    """NHWC input, transposes around a convolution, bias as Add, SAME padding, NHWC flattening, MatMul and BiasAdd."""
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        node("Conv", ["t", "net/conv/Conv2D/ReadVariableOp:0"], ["c"], auto_pad="SAME_UPPER", strides=[2, 2]),
        node("Add", ["c", "bias4"], ["cb"]),
        node("Relu", ["cb"], ["r"]),
        node("Transpose", ["r"], ["n"], perm=[0, 2, 3, 1]),
        node("Reshape", ["n", "flat"], ["f"]),
        node("MatMul", ["f", "net/dense/MatMul/ReadVariableOp:0"], ["m"]),
        node("Add", ["m", "net/dense/BiasAdd/ReadVariableOp:0"], ["y"]),
    ]
    constants = {
        "net/conv/Conv2D/ReadVariableOp:0": normal(4, 3, 3, 3),
        "bias4": normal(1, 4, 1, 1),
        "flat": ints(-1, 4 * 4 * 4),
        "net/dense/MatMul/ReadVariableOp:0": normal(64, 5),
        "net/dense/BiasAdd/ReadVariableOp:0": normal(5),
    }
    module = assert_same(
        model(nodes, {"x": [BATCH, 8, 8, 3]}, ["y"], constants, opset=13), {"x": normal(2, 8, 8, 3)}, {"x": normal(5, 8, 8, 3)}
    )
    assert module.get_submodule("net.conv").bias is not None
    assert module.get_submodule("net.dense").bias is not None
    targets = [item.target for item in module.graph.nodes if item.op in ("call_method", "call_function")]
    assert targets == ["permute"]


def test_decomposed_layers_are_put_together() -> None:
    """Layer normalization and GELU as opset 13 spells them out."""
    nodes = [
        node("ReduceMean", ["x"], ["mean"], axes=[-1]),
        node("Sub", ["x", "mean"], ["d"]),
        node("Pow", ["d", "two"], ["sq"]),
        node("ReduceMean", ["sq"], ["var"], axes=[-1]),
        node("Add", ["var", "eps"], ["stable"]),
        node("Sqrt", ["stable"], ["std"]),
        node("Div", ["d", "std"], ["n"]),
        node("Mul", ["n", "norm.weight"], ["s"]),
        node("Add", ["s", "norm.bias"], ["l"]),
        node("Div", ["l", "root"], ["g1"]),
        node("Erf", ["g1"], ["g2"]),
        node("Add", ["g2", "one"], ["g3"]),
        node("Mul", ["l", "g3"], ["g4"]),
        node("Mul", ["g4", "half"], ["g5"]),
        node("Sigmoid", ["g5"], ["h"]),
        node("Mul", ["g5", "h"], ["y"]),
    ]
    constants = {
        **{"two": scalar(2), "eps": scalar(1e-5), "root": scalar(2**0.5), "one": scalar(1), "half": scalar(0.5)},
        **{"norm.weight": normal(6), "norm.bias": normal(6, seed=1)},
    }
    module = assert_same(model(nodes, {"x": [BATCH, 4, 6]}, ["y"], constants, opset=13), {"x": normal(2, 4, 6)}, {"x": normal(5, 4, 6)})
    assert [type(layer).__name__ for layer in module.children()] == ["LayerNorm", "GELU", "SiLU"]
    assert isinstance(module.get_submodule("norm"), nn.LayerNorm)


def test_a_pattern_whose_inner_value_leaves_the_network_stays_in_pieces() -> None:
    nodes = [node("Sigmoid", ["x"], ["s"]), node("Mul", ["x", "s"], ["y"])]
    module = assert_same(model(nodes, {"x": [BATCH, 3]}, ["s", "y"]), {"x": normal(4, 3)})
    assert [type(layer).__name__ for layer in module.children()] == ["Sigmoid"]
