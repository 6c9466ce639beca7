"""Element-wise operators, pools and reductions against onnxruntime, and what is said of nodes that cannot be trained."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from engine.contract.errors import EngineError
from engine.formats.onnx.importer.rebuild import OPERATORS, build_module
from tests.engine.formats.onnx.graphs import BATCH, I64, assert_same, ints, model, node, normal, scalar

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


def test_integer_division_goes_towards_zero() -> None:
    proto = model([node("Div", ["x", "b"], ["y"])], {"x": [BATCH, 3]}, ["y"], {"b": ints(2, -2, 3)}, types={"x": "i", "y": "i"})
    assert_same(proto, {"x": np.array([[-3, 3, -4], [7, 7, 7]], dtype=I64)})


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
