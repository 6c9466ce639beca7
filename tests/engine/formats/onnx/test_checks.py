"""ONNX files of strangers: what is refused, under which code, before any runtime sees it."""

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from engine.contract.errors import EngineError
from engine.formats.onnx.checks import check_graph, inlined
from engine.formats.onnx.file import is_quantized, read_model, signature_of
from engine.formats.onnx.importer.rebuild import build_module
from tests.engine.formats.onnx.files import onnx_file
from tests.engine.formats.onnx.graphs import BATCH, assert_same, model, node, normal


def refused(proto: onnx.ModelProto) -> EngineError:
    with pytest.raises(EngineError) as caught:
        check_graph(proto)
    return caught.value


def good() -> onnx.ModelProto:
    return onnx.load_model_from_string(onnx_file())


def initializer(proto: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(item for item in proto.graph.initializer if item.name == name)


def test_a_good_file_passes_and_its_signature_is_read(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(onnx_file())
    proto = read_model(tmp_path / "m.onnx")
    signature = signature_of(proto)
    assert [(item.name, item.shape, item.dtype) for item in signature.inputs] == [("x", (None, 1, 4, 4), "float32")]
    assert not is_quantized(proto)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["conv.weight", "fc.bias"])
def test_weights_that_are_not_finite_are_named(name: str, value: float) -> None:
    proto = good()
    array = numpy_helper.to_array(initializer(proto, name)).copy()
    array.ravel()[0] = value
    initializer(proto, name).CopyFrom(numpy_helper.from_array(array, name))
    error = refused(proto)
    assert error.code == "non_finite_weights"
    assert name in error.message


def test_infinity_in_a_mask_is_no_damage() -> None:
    mask = np.triu(np.full((4, 4), -np.inf, np.float32), 1)
    check_graph(model([node("Add", ["x", "mask"], ["y"])], {"x": [BATCH, 4, 4]}, ["y"], {"mask": mask}))


def test_operators_of_other_domains_are_refused_by_name() -> None:
    proto = model([helper.make_node("Evil", ["x"], ["y"], name="n", domain="custom.ops")], {"x": [BATCH, 3]}, ["y"], domain="custom.ops")
    error = refused(proto)
    assert error.code == "unsupported_operator"
    assert "custom.ops::Evil" in error.message
    branch = helper.make_graph(
        [helper.make_node("Evil", ["x"], ["z"], domain="custom.ops")], "b", [], [helper.make_tensor_value_info("z", 1, None)]
    )
    inside = model([node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)], {"x": [3]}, ["y"], {"c": np.array(True)})
    assert refused(inside).code == "unsupported_operator"


@pytest.mark.parametrize(
    "proto",
    [
        model([node("ConstantOfShape", ["s"], ["y"])], {"x": [1]}, ["y"], {"s": np.array([2**16, 2**16, 16])}),
        model([node("Expand", ["x", "s"], ["y"])], {"x": [1]}, ["y"], {"s": np.array([2**20, 2**20])}),
        model([node("Tile", ["x", "s"], ["y"])], {"x": [1]}, ["y"], {"s": np.array([2**40])}),
        model([node("Relu", ["x"], ["y"])], {"x": [BATCH, 2**16, 2**16]}, ["y"]),
        model([node("MatMul", ["x", "z"], ["y"])], {"x": [2**17, 1], "z": [1, 2**17]}, ["y"]),
        model(
            [node("Mul", ["a", "a"], ["b"]), node("Mul", ["b", "b"], ["c"]), node("ConstantOfShape", ["c"], ["y"])],
            {"x": [1]},
            ["y"],
            {"a": np.array([2**5, 2**5])},
        ),
    ],
    ids=["constant-of-shape", "expand", "tile", "input", "outer-product", "computed-shape"],
)
def test_a_few_bytes_cannot_ask_for_gigabytes(proto: onnx.ModelProto) -> None:
    assert len(proto.SerializeToString()) < 400
    if proto.graph.node[-1].op_type == "ConstantOfShape" and len(proto.graph.node) > 1:
        proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array([2**9, 2**9]), "a"))
    assert refused(proto).code == "tensor_limit_exceeded"


def test_a_weight_without_its_data_and_impossible_dimensions() -> None:
    proto = good()
    initializer(proto, "fc.weight").dims[0] = 5
    error = refused(proto)
    assert error.code == "model_invalid"
    assert "fc.weight" in error.message
    initializer(proto, "fc.weight").dims[:] = [-3, -64]
    assert refused(proto).code == "model_invalid"
    initializer(proto, "fc.weight").dims[:] = [2**40, 2**40]
    assert refused(proto).code == "tensor_limit_exceeded"


@pytest.mark.parametrize("kind", ["FLOAT", "DOUBLE", "FLOAT16", "INT8", "INT32", "INT64", "UINT64", "BOOL", "INT4", "BFLOAT16"])
@pytest.mark.parametrize("raw", [True, False])
def test_every_type_is_held_to_the_data_of_its_shape(kind: str, raw: bool) -> None:
    def tensor(count: int) -> onnx.TensorProto:
        result = helper.make_tensor("t", getattr(TensorProto, kind), [count], [1] * count, raw=False)
        return numpy_helper.from_array(numpy_helper.to_array(result), "t") if raw else result

    for stated, fits in ((7, True), (9, False), (5, False)):
        proto = good()
        proto.graph.initializer.append(tensor(7))
        proto.graph.initializer[-1].dims[0] = stated
        if fits:
            check_graph(proto)
        else:
            assert refused(proto).code == "model_invalid"


def test_an_unknown_type_is_invalid() -> None:
    proto = good()
    initializer(proto, "fc.weight").data_type = 99
    assert refused(proto).code == "model_invalid"


def test_external_data_is_refused_wherever_it_stands() -> None:
    outside = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="/etc/passwd")
    proto = model([node("Constant", [], ["c"], value=outside), node("Add", ["x", "c"], ["y"])], {"x": [BATCH, 3]}, ["y"])
    assert refused(proto).code == "external_data_forbidden"


def functions(count: int, calls: int, *, cycle: bool = False) -> onnx.ModelProto:
    """`count` functions, each of which calls the next `calls` times."""
    proto = model([helper.make_node("f0", ["x"], ["y"], domain="local")], {"x": [BATCH, 3]}, ["y"], domain="local")
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    for index in range(count):
        following = "f0" if cycle and index == count - 1 else f"f{index + 1}"
        if index == count - 1 and not cycle:
            body = [helper.make_node("Relu", ["a"], ["b"])]
        else:
            names = ["a", *(f"t{step}" for step in range(calls - 1)), "b"]
            body = [helper.make_node(following, [names[step]], [names[step + 1]], domain="local") for step in range(calls)]
        proto.functions.append(helper.make_function("local", f"f{index}", ["a"], ["b"], body, opsets))
    return proto


def test_local_functions_are_expanded() -> None:
    proto = functions(3, 2)
    check_graph(proto)
    flat = inlined(proto)
    assert {item.op_type for item in flat.graph.node} == {"Relu"}
    assert_same(flat, {"x": normal(4, 3)})


def test_functions_that_expand_without_end_are_refused() -> None:
    assert refused(functions(3, 1, cycle=True)).code == "model_invalid"
    assert refused(functions(8, 10)).code == "tensor_limit_exceeded"
    assert refused(functions(60, 1)).code == "model_invalid"


def test_deep_nesting_is_refused() -> None:
    graph = helper.make_graph([node("Identity", ["x"], ["z"])], "b", [], [helper.make_tensor_value_info("z", 1, None)])
    for _ in range(12):
        choose = node("If", ["c"], ["z"], then_branch=graph, else_branch=graph)
        graph = helper.make_graph([choose], "b", [], [helper.make_tensor_value_info("z", 1, None)])
        if len(graph.SerializeToString()) > 2**20:
            break
    proto = model([node("If", ["c"], ["y"], then_branch=graph, else_branch=graph)], {"x": [3]}, ["y"], {"c": np.array(True)})
    assert refused(proto).code == "model_invalid"


def test_an_empty_graph_is_invalid() -> None:
    assert refused(model([], {"x": [3]}, ["x"])).code == "model_invalid"


@pytest.mark.parametrize("quantized", ["QuantizeLinear", "ConvInteger", "MatMulInteger", "QLinearConv"])
def test_quantized_graphs_are_told_apart(quantized: str) -> None:
    proto = good()
    proto.graph.node.append(node(quantized, ["r"], ["q"]))
    assert is_quantized(proto)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_damaged_files_are_read_or_refused_with_a_code(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever is changed, reading and rebuilding ends in a module or in an EngineError."""
    content = bytearray(onnx_file())
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content[position] = data.draw(st.integers(0, 255))
        else:
            del content[position]
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(content)
    with contextlib.suppress(EngineError):
        build_module(read_model(path))
