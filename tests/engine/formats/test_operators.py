"""Every operator by itself, in the forms of several opsets, against onnxruntime; batch of two and of five."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from engine.errors import EngineError
from engine.formats.from_onnx.rebuild import OPERATORS, build_module
from tests.engine.formats.graphs import BATCH, assert_same, model, node, normal

I64 = np.int64


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=I64)


def scalar(value: float) -> np.ndarray:
    return np.array(value, dtype=np.float32)


ELEMENTWISE = [
    *(
        [
            "Abs",
            "Acos",
            "Asin",
            "Asinh",
            "Atan",
            "Atanh",
            "Ceil",
            "Celu",
            "Cos",
            "Cosh",
            "Elu",
            "Erf",
            "Exp",
            "Floor",
            "HardSigmoid",
            "HardSwish",
            "Identity",
            "IsNaN",
            "LeakyRelu",
            "LogSoftmax",
        ]
    ),
    *(
        [
            "Mish",
            "Neg",
            "Relu",
            "Round",
            "Selu",
            "Shrink",
            "Sigmoid",
            "Sign",
            "Sin",
            "Sinh",
            "Softmax",
            "Softplus",
            "Softsign",
            "Tan",
            "Tanh",
            "ThresholdedRelu",
            "Reciprocal",
        ]
    ),
]


@pytest.mark.parametrize("kind", ELEMENTWISE)
def test_activation_or_function_of_one_tensor(kind: str) -> None:
    inside = kind in ("Acos", "Asin", "Atanh")
    proto = model([node(kind, ["x"], ["y0"]), node("Cast", ["y0"], ["y"], to=TensorProto.FLOAT)], {"x": [BATCH, 3, 4]}, ["y"])
    feeds = [{"x": np.tanh(normal(batch, 3, 4)) * 0.9 if inside else normal(batch, 3, 4)} for batch in (2, 5)]
    assert_same(proto, *feeds)


@pytest.mark.parametrize("kind", ["Acosh", "Log", "Sqrt"])
def test_function_of_positive_numbers(kind: str) -> None:
    proto = model([node(kind, ["x"], ["y"])], {"x": [BATCH, 3]}, ["y"])
    assert_same(proto, {"x": np.abs(normal(4, 3)) + 1.1})


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
        ("Selu", {"alpha": 1.2, "gamma": 1.5}),
        ("Shrink", {"lambd": 0.4, "bias": 0.4}),
        ("Elu", {"alpha": 0.3}),
        ("LRN", {"size": 3, "alpha": 0.1}),
        ("LpNormalization", {"axis": 1, "p": 1}),
        ("MeanVarianceNormalization", {}),
        ("Softmax", {"axis": 1}),
        ("LogSoftmax", {"axis": 2}),
        ("DepthToSpace", {"blocksize": 2}),
        ("DepthToSpace", {"blocksize": 2, "mode": "CRD"}),
        ("SpaceToDepth", {"blocksize": 2}),
        ("GlobalAveragePool", {}),
        ("GlobalMaxPool", {}),
        ("Flatten", {}),
        ("Flatten", {"axis": 2}),
        ("Flatten", {"axis": 0}),
        ("Flatten", {"axis": -1}),
        ("ArgMax", {"axis": 1}),
        ("ArgMin", {"axis": 2, "keepdims": 0}),
        ("Transpose", {}),
        ("Transpose", {"perm": [0, 2, 3, 1]}),
        ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}),
        ("MaxPool", {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
        ("MaxPool", {"kernel_shape": [2, 2], "dilations": [2, 2]}),
        ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
        ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
        ("AveragePool", {"kernel_shape": [2, 3], "pads": [1, 0, 0, 1], "count_include_pad": 1}),
    ],
)
def test_operator_on_images_with_attributes(kind: str, attributes: dict) -> None:
    proto = model(
        [node(kind, ["x"], ["y0"], **attributes), node("Cast", ["y0"], ["y"], to=TensorProto.FLOAT)], {"x": [BATCH, 4, 6, 6]}, ["y"]
    )
    assert_same(
        proto, {"x": normal(2, 4, 6, 6)}, *([] if kind == "Flatten" and attributes.get("axis") == 0 else [{"x": normal(5, 4, 6, 6)}])
    )


@pytest.mark.parametrize(
    ("kind", "left", "right"),
    [
        ("Add", None, scalar(2)),
        ("Sub", scalar(2), None),
        ("Mul", None, normal(4)),
        ("Div", scalar(3), None),
        ("Div", None, normal(3, 1)),
        ("Pow", None, scalar(2)),
        ("Pow", None, scalar(0.5)),
        ("Max", None, normal(4)),
        ("Min", None, scalar(0.1)),
        ("Sum", None, normal(3, 4)),
        ("Mean", None, normal(3, 4)),
        ("PRelu", None, normal(3, 1)),
        ("PRelu", None, normal(1)),
        ("PRelu", None, normal(3, 4)),
        ("Mod", None, scalar(0.7)),
        ("Greater", None, scalar(0.2)),
        ("GreaterOrEqual", None, normal(4)),
        ("Less", scalar(0.2), None),
        ("LessOrEqual", None, scalar(0.2)),
        ("Equal", None, scalar(0)),
    ],
)
def test_operator_of_two_tensors(kind: str, left: np.ndarray | None, right: np.ndarray | None) -> None:
    attributes = {"fmod": 1} if kind == "Mod" else {}
    constants = {name: array for name, array in (("a", left), ("b", right)) if array is not None}
    proto = model(
        [
            node(kind, ["x" if left is None else "a", "x" if right is None else "b"], ["y0"], **attributes),
            node("Cast", ["y0"], ["y"], to=1),
        ],
        {"x": [BATCH, 3, 4]},
        ["y"],
        constants,
    )
    shift = 3.0 if kind == "Pow" else 0.0
    assert_same(proto, *({"x": np.abs(normal(batch, 3, 4)) + shift if shift else normal(batch, 3, 4)} for batch in (2, 5)))


REDUCTIONS = [
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
]


@pytest.mark.parametrize("kind", REDUCTIONS)
@pytest.mark.parametrize("opset", [11, 18])
def test_reduction_with_axes_as_attribute_and_as_input(kind: str, opset: int) -> None:
    as_input = opset == 18
    reduction = node(kind, ["x", "axes"], ["y"], keepdims=0) if as_input else node(kind, ["x"], ["y"], axes=[1, -1], keepdims=0)
    proto = model([reduction], {"x": [BATCH, 3, 4, 2]}, ["y"], {"axes": ints(1, -1)} if as_input else {}, opset=opset)
    assert_same(proto, *({"x": np.abs(normal(batch, 3, 4, 2)) + 0.1} for batch in (2, 5)))


def test_reduction_without_axes_takes_everything_or_nothing() -> None:
    whole = model([node("ReduceMean", ["x"], ["y"])], {"x": [BATCH, 3]}, ["y"])
    assert_same(whole, {"x": normal(4, 3)})
    nothing = model([node("ReduceSum", ["x"], ["y"], noop_with_empty_axes=1)], {"x": [BATCH, 3]}, ["y"])
    assert_same(nothing, {"x": normal(4, 3)})


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


def test_gemm_of_flowing_matrices() -> None:
    proto = model([node("Gemm", ["x", "z"], ["y"], transA=1, alpha=0.5)], {"x": [BATCH, 4], "z": [BATCH, 3]}, ["y"])
    assert_same(proto, {"x": normal(5, 4), "z": normal(5, 3)})


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


def test_integer_division_goes_towards_zero() -> None:
    proto = model([node("Div", ["x", "b"], ["y"])], {"x": [BATCH, 3]}, ["y"], {"b": ints(2, -2, 3)}, types={"x": "i", "y": "i"})
    assert_same(proto, {"x": np.array([[-3, 3, -4], [7, 7, 7]], dtype=I64)})


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


@pytest.mark.parametrize(
    ("nodes", "named"),
    [
        ([node("NonZero", ["x"], ["y"])], "NonZero"),
        ([node("GRU", ["x", "w", "r"], ["y"], hidden_size=2)], "linear_before_reset"),
        ([node("MaxPool", ["x"], ["a", "y"], kernel_shape=[2])], "indices"),
        ([node("Resize", ["x", "", "s"], ["y"], mode="linear", coordinate_transformation_mode="asymmetric")], "asymmetric"),
    ],
)
def test_what_has_no_trainable_form_names_the_node_and_a_way_out(nodes: list, named: str) -> None:
    proto = model(nodes, {"x": [BATCH, 3, 4]}, ["y"], {"w": normal(1, 6, 4), "r": normal(1, 6, 2), "s": np.array([1, 1, 2], np.float32)})
    with pytest.raises(EngineError) as caught:
        build_module(proto)
    assert caught.value.code == "unsupported_operator"
    assert "node_" in caught.value.message
    assert named in caught.value.message
    assert "quantization still works" in (caught.value.hint or "")


def test_control_flow_is_named() -> None:
    branch = helper.make_graph([node("Identity", ["x"], ["z"])], "b", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)])
    choose = node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    proto = model([choose], {"x": [BATCH, 3]}, ["y"], {"c": np.array(True)})
    with pytest.raises(EngineError, match="control flow") as caught:
        build_module(proto)
    assert caught.value.code == "unsupported_operator"


def test_contradicting_shapes_are_the_models_fault() -> None:
    proto = model([node("Add", ["x", "b"], ["y"])], {"x": [BATCH, 3]}, ["y"], {"b": normal(4)})
    with pytest.raises(EngineError) as caught:
        build_module(proto)
    assert caught.value.code == "model_invalid"
    assert "node_y" in caught.value.message


def test_a_missing_input_is_the_models_fault() -> None:
    with pytest.raises(EngineError, match="'ghost'") as caught:
        build_module(model([node("Relu", ["ghost"], ["y"])], {"x": [BATCH, 3]}, ["y"]))
    assert caught.value.code == "model_invalid"


def test_every_handled_operator_is_real() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas()}
    assert set(OPERATORS) <= known


def test_a_constant_that_asks_for_terabytes_is_refused_before_it_is_made() -> None:
    fill = numpy_helper.from_array(np.zeros(1, np.float32))
    nodes = [node("ConstantOfShape", ["s"], ["big"], value=fill), node("ReduceSum", ["big"], ["one"]), node("Add", ["x", "one"], ["y"])]
    with pytest.raises(EngineError) as caught:
        build_module(model(nodes, {"x": [BATCH, 3]}, ["y"], {"s": ints(2**20, 2**20)}))
    assert caught.value.code == "tensor_limit_exceeded"
