"""Operators that move, cut, join, pad, resize and look up, in the forms of several opsets, against onnxruntime."""

import numpy as np
import pytest

from tests.engine.formats.onnx.graphs import BATCH, I64, assert_same, ints, model, node, normal, scalar


@pytest.mark.parametrize(
    ("axis", "index"),
    [(1, ints(2, 0)), (1, ints(-1)), (2, np.array(1, dtype=I64)), (1, np.array([[0, 1], [2, -1]], dtype=I64))],
)
def test_gather_of_constant_places(axis: int, index: np.ndarray) -> None:
    proto = model([node("Gather", ["x", "i"], ["y"], axis=axis)], {"x": [BATCH, 3, 4]}, ["y"], {"i": index})
    assert_same(proto, {"x": normal(2, 3, 4)}, {"x": normal(5, 3, 4)})


def test_gather_of_computed_places_and_elements() -> None:
    nodes = [node("ArgMax", ["x"], ["i"], axis=2, keepdims=1), node("GatherElements", ["x", "i"], ["y"], axis=2)]
    assert_same(model(nodes, {"x": [BATCH, 3, 4]}, ["y"]), {"x": normal(5, 3, 4)})
    nodes = [node("ArgMax", ["x"], ["i"], axis=1, keepdims=0), node("Gather", ["t", "i"], ["y"], axis=0)]
    module = assert_same(model(nodes, {"x": [BATCH, 3]}, ["y"], {"t": normal(3, 6)}), {"x": normal(5, 3)})
    assert [type(layer).__name__ for layer in module.children()] == ["Embedding"]


@pytest.mark.parametrize("batch_dims", [0, 1])
def test_gather_of_places_by_all_their_coordinates(batch_dims: int) -> None:
    """The best step of each example, with its features; with no batch dimension the example's number is a coordinate, too."""
    nodes = [node("ReduceSum", ["x", "last"], ["s"], keepdims=0), node("ArgMax", ["s"], ["i"], axis=1, keepdims=1)]
    if batch_dims:
        nodes.append(node("GatherND", ["x", "i"], ["y"], batch_dims=1))
    else:
        nodes += [node("Mul", ["i", "zero"], ["n"]), node("Concat", ["n", "i"], ["both"], axis=1), node("GatherND", ["x", "both"], ["y"])]
    constants = {"last": ints(2), **({} if batch_dims else {"zero": ints(0)})}
    assert_same(model(nodes, {"x": [BATCH, 3, 4]}, ["y"], constants), {"x": normal(5, 3, 4)}, {"x": normal(2, 3, 4, seed=1)})


def test_scatter_of_computed_values_into_a_constant_table() -> None:
    nodes = [
        node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=0),
        node("ScatterND", ["t", "i", "m"], ["u"]),
        node("Add", ["x", "u"], ["y"]),
    ]
    constants = {"t": normal(2, 4), "i": ints(1, 0).reshape(2, 1)[:, :1]}
    proto = model(nodes, {"x": [BATCH, 2, 4]}, ["y"], constants, opset=17)
    assert_same(proto, {"x": normal(5, 2, 4)})


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [
        ((1,), (3,), (1,), (1,)),
        ((0, -3), (2, 2**63 - 1), (1, 2), (1, 2)),
        ((-1,), (-(2**63),), (2,), (-1,)),
        ((2**31,), (-(2**31) - 5,), (1,), (-1,)),
        ((1,), (2**31 - 1,), (-1,), (1,)),
    ],
)
def test_slice(starts: tuple, ends: tuple, axes: tuple, steps: tuple) -> None:
    constants = {"s": ints(*starts), "e": ints(*ends), "a": ints(*axes), "t": ints(*steps)}
    proto = model([node("Slice", ["x", *constants], ["y"])], {"x": [BATCH, 3, 5]}, ["y"], constants)
    assert_same(proto, {"x": normal(2, 3, 5)}, {"x": normal(4, 3, 5)})


def test_slice_with_attributes_of_opset_nine() -> None:
    proto = model([node("Slice", ["x"], ["y"], starts=[1], ends=[3], axes=[2])], {"x": [BATCH, 3, 5]}, ["y"], opset=9)
    assert_same(proto, {"x": normal(4, 3, 5)})


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("equal", [True, False])
def test_split(opset: int, equal: bool) -> None:
    parts = None if equal else [1, 5]
    if opset >= 13 and parts:
        split = node("Split", ["x", "p"], ["a", "b"], axis=1)
    else:
        extra = {"split": parts} if parts else ({"num_outputs": 2} if opset >= 18 else {})
        split = node("Split", ["x"], ["a", "b"], axis=1, **extra)
    proto = model([split], {"x": [BATCH, 6]}, ["b", "a"], {"p": ints(*parts)} if parts and opset >= 13 else {}, opset=opset)
    assert_same(proto, {"x": normal(2, 6)}, {"x": normal(5, 6)})


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_pad_modes(mode: str) -> None:
    constants = {"p": ints(0, 0, 1, 2, 0, 0, 2, 1), "v": scalar(0.5)}
    inputs = ["x", "p", "v"] if mode == "constant" else ["x", "p"]
    proto = model([node("Pad", inputs, ["y"], mode=mode)], {"x": [BATCH, 3, 5, 5]}, ["y"], constants, opset=19)
    assert_same(proto, {"x": normal(4, 3, 5, 5)})


def test_pad_of_opset_two_and_negative_pads() -> None:
    proto = model([node("Pad", ["x"], ["y"], pads=[0, 0, 1, 0, 0, -2], value=2.0)], {"x": [BATCH, 3, 5]}, ["y"], opset=10)
    assert_same(proto, {"x": normal(4, 3, 5)})


@pytest.mark.parametrize(
    ("attributes", "scales"),
    [
        ({"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}, (1, 1, 2, 3)),
        ({"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}, (1, 1, 1.5, 0.6)),
        ({"mode": "nearest"}, (1, 1, 2, 2)),
        ({"mode": "linear"}, (1, 1, 2, 1.5)),
        ({"mode": "linear", "coordinate_transformation_mode": "align_corners"}, (1, 1, 2, 2)),
        ({"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"}, (1, 1, 0.5, 2)),
        ({"mode": "cubic"}, (1, 1, 2, 2)),
    ],
)
def test_resize_by_factors(attributes: dict, scales: tuple) -> None:
    proto = model(
        [node("Resize", ["x", "", "s"], ["y"], **attributes)], {"x": [BATCH, 2, 6, 5]}, ["y"], {"s": np.array(scales, np.float32)}
    )
    assert_same(proto, {"x": normal(2, 2, 6, 5)}, {"x": normal(3, 2, 6, 5)})


def test_resize_to_the_size_of_another_value() -> None:
    nodes = [
        node("Shape", ["z"], ["shape"]),
        node("Slice", ["shape", "two", "four"], ["space"]),
        node("Shape", ["x"], ["own"]),
        node("Slice", ["own", "zero", "two"], ["front"]),
        node("Concat", ["front", "space"], ["sizes"], axis=0),
        node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear"),
    ]
    proto = model(nodes, {"x": [BATCH, 2, 3, 3], "z": [BATCH, 1, 6, 9]}, ["y"], {"zero": ints(0), "two": ints(2), "four": ints(4)})
    assert_same(proto, {"x": normal(2, 2, 3, 3), "z": normal(2, 1, 6, 9)}, {"x": normal(3, 2, 3, 3), "z": normal(3, 1, 6, 9)})


def test_small_operators_together() -> None:
    nodes = [
        node("Unsqueeze", ["x", "one"], ["row"]),
        node("Unsqueeze", ["x", "two"], ["column"]),
        node("MatMul", ["column", "row"], ["outer"]),
        node("TopK", ["x", "k"], ["best", "where"], axis=1),
        node("OneHot", ["where", "depth", "onoff"], ["hot"], axis=-1),
        node("ReduceSum", ["hot", "one"], ["hot1"], keepdims=0),
        node("CumSum", ["x", "axis"], ["sum"], exclusive=1, reverse=1),
        node("Trilu", ["outer", "offset"], ["lower"], upper=0),
        node("Einsum", ["outer", "x"], ["product"], equation="bij, bj -> bi"),
        node("Tile", ["x", "twice"], ["tiled"]),
        node("IsInf", ["x"], ["inf"]),
        node("Not", ["inf"], ["fine"]),
        node("And", ["fine", "fine"], ["sure"]),
        node("Where", ["sure", "x", "sum"], ["chosen"]),
        node("Clip", ["x", "", "high"], ["low"]),
        node("CastLike", ["where", "x"], ["places"]),
    ]
    constants = {
        "k": ints(2),
        "depth": ints(6),
        "onoff": np.array([0.5, 2], np.float32),
        "one": ints(1),
        "two": ints(2),
        "axis": np.array(1, I64),
        "offset": np.array(-1, I64),
        "twice": ints(1, 2),
        "high": scalar(0.3),
    }
    proto = model(nodes, {"x": [BATCH, 6]}, ["best", "hot1", "sum", "lower", "product", "tiled", "chosen", "low", "places"], constants)
    assert_same(proto, {"x": normal(2, 6)}, {"x": normal(5, 6)})


@pytest.mark.parametrize("opset", [9, 11, 13, 18])
def test_squeeze_clip_and_dropout_in_each_opset(opset: int) -> None:
    nodes = [
        node("Unsqueeze", ["x"], ["a"], axes=[1]) if opset < 13 else node("Unsqueeze", ["x", "axes"], ["a"]),
        node("Clip", ["a"], ["b"], min=0.0, max=6.0) if opset < 11 else node("Clip", ["a", "low", "high"], ["b"]),
        node("Dropout", ["b"], ["c"], ratio=0.5) if opset < 12 else node("Dropout", ["b", "half"], ["c"]),
        node("Softmax", ["c"], ["d"], axis=1),
        node("Squeeze", ["d"], ["y"], axes=[1]) if opset < 13 else node("Squeeze", ["d", "axes"], ["y"]),
    ]
    proto = model(
        nodes, {"x": [BATCH, 3, 4]}, ["y"], {"axes": ints(1), "low": scalar(0), "high": scalar(6), "half": scalar(0.5)}, opset=opset
    )
    module = assert_same(proto, {"x": normal(2, 3, 4) * 4}, {"x": normal(5, 3, 4) * 4})
    assert {"ReLU6", "Dropout"} <= {type(layer).__name__ for layer in module.modules()}
