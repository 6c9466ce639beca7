"""Graphs whose large constants lie in a file beside them: nothing is lost, and copies hold no weights."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine.contract.errors import EngineError
from engine.formats.onnx import apart, runtime

LARGE = np.random.default_rng(0).normal(size=(256, 128)).astype(np.float32)
SMALL = np.random.default_rng(1).normal(size=128).astype(np.float32)
IMAGES = np.random.default_rng(2).normal(size=(5, 256)).astype(np.float32)


def _model(kind: str = "MatMul") -> onnx.ModelProto:
    """A product with a large weight and a small bias; a branch has a large weight of its own."""
    weights = [numpy_helper.from_array(value, name) for name, value in (("w", LARGE), ("b", SMALL), ("yes", np.array(True)))]
    turned = numpy_helper.from_array(np.ascontiguousarray(LARGE[:128]), "inner")
    output = helper.make_tensor_value_info("t", TensorProto.FLOAT, None)
    then = helper.make_graph([helper.make_node("MatMul", ["a", "inner"], ["t"])], "then", [], [output], [turned])
    other = helper.make_graph([helper.make_node("Identity", ["a"], ["t"])], "other", [], [output])
    nodes = [
        helper.make_node(kind, ["x", "w"], ["p"], "product"),
        helper.make_node("Add", ["p", "b"], ["a"], "sum"),
        helper.make_node("ReduceMax", ["a"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "m"], ["c"]),
        helper.make_node("If", ["c"], ["y"], then_branch=other, else_branch=then),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 256])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 128])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {"origin": "test"})
    return model


def _outputs(path: Path) -> np.ndarray:
    return runtime.run(runtime.open_session(path, threads=1, optimized=False), {"x": IMAGES})[0]


def test_what_is_split_can_be_joined_again() -> None:
    model = _model()
    rest, constants = apart.split(model)
    assert set(constants) == {"w"}
    assert rest.ByteSize() < model.ByteSize() - LARGE.nbytes + 500
    assert apart.joined(rest, constants) == model


def test_an_optimized_graph_computes_the_same_and_holds_only_small_constants(tmp_path: Path) -> None:
    plain, path = tmp_path / "plain.onnx", tmp_path / "apart.onnx"
    onnx.save(_model(), plain)
    apart.optimize(*apart.split(_model()), path)
    assert path.stat().st_size < LARGE.nbytes
    np.testing.assert_array_equal(_outputs(path), _outputs(plain))
    np.testing.assert_array_equal(numpy_helper.to_array(next(i for i in onnx.load(path).graph.initializer if i.name == "w")), LARGE)


def test_a_changed_outline_finds_the_constants_where_they_lie(tmp_path: Path) -> None:
    path, copy = tmp_path / "apart.onnx", tmp_path / "copy.onnx"
    apart.optimize(*apart.split(_model()), path)
    model = apart.outline(path)
    model.graph.output[0].name = model.graph.node[-1].output[0] = "renamed"
    onnx.save(model, copy)
    np.testing.assert_array_equal(_outputs(copy), _outputs(path))


def test_one_constant_is_read_alone(tmp_path: Path) -> None:
    path = tmp_path / "apart.onnx"
    apart.optimize(*apart.split(_model()), path)
    model = apart.outline(path)
    for tensor in model.graph.initializer:
        apart.load_constant(tensor, path)
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    np.testing.assert_array_equal(numpy_helper.to_array(found["w"]), LARGE)
    assert not found["w"].external_data


def test_a_second_graph_of_the_same_name_leaves_nothing_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "apart.onnx"
    apart.optimize(*apart.split(_model()), path)
    first = {file.name: file.stat().st_size for file in tmp_path.iterdir()}
    apart.optimize(*apart.split(_model()), path)
    assert {file.name: file.stat().st_size for file in tmp_path.iterdir()} == first
    apart.remove(path)
    assert not list(tmp_path.iterdir())


def test_what_the_runtime_refuses_is_said(tmp_path: Path) -> None:
    with pytest.raises(EngineError) as raised:
        apart.optimize(*apart.split(_model("NoSuchOperator")), tmp_path / "apart.onnx")
    assert raised.value.code == "model_invalid"
