"""Types of inputs, outputs and stored weights outlive import, training and export."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from engine.contract.errors import EngineError, translate
from engine.contract.metadata import ModelMetadata
from engine.formats import load_network
from engine.formats.onnx import runtime
from engine.formats.onnx.counting import count_onnx
from tests.engine.formats.onnx.graphs import BATCH, node, normal, run_reference

F16, F32, F64, I32 = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT32
WIDTHS = (6, 8, 4)


def network(folder: Path, *, given: int, stored: int, computed: int, returned: int) -> Path:
    """Two linear layers and an index of the largest output; Cast nodes wherever two types meet."""
    numpy_type = helper.tensor_dtype_to_np_dtype(stored)
    weights = {"fc1.weight": normal(6, 8), "fc1.bias": normal(8), "fc2.weight": normal(8, 4), "fc2.bias": normal(4)}
    nodes, names = [], {}
    for name in weights:
        names[name] = name if stored == computed else f"{name}_cast"
        if stored != computed:
            nodes.append(node("Cast", [name], [names[name]], to=computed))
    start, end = ("x" if given == computed else "x_cast"), ("y" if computed == returned else "z")
    nodes += [node("Cast", ["x"], ["x_cast"], to=computed)] if given != computed else []
    nodes += [
        node("Gemm", [start, names["fc1.weight"], names["fc1.bias"]], ["h"]),
        node("Relu", ["h"], ["r"]),
        node("Gemm", ["r", names["fc2.weight"], names["fc2.bias"]], [end]),
        node("ArgMax", [end], ["i"], axis=1, keepdims=0),
        node("Cast", ["i"], ["best"], to=I32),
    ]
    nodes += [node("Cast", ["z"], ["y"], to=returned)] if computed != returned else []
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", given, [BATCH, 6])],
        [helper.make_tensor_value_info("y", returned, [BATCH, 4]), helper.make_tensor_value_info("best", I32, [BATCH])],
        [numpy_helper.from_array(array.astype(numpy_type), name) for name, array in weights.items()],
    )
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize(
    ("given", "stored", "computed", "returned"),
    [(F16, F16, F16, F16), (F32, F16, F32, F32), (F16, F16, F32, F16), (F64, F64, F64, F64), (F64, F32, F32, F64), (F32, F32, F32, F16)],
)
def test_types_stay(given: int, stored: int, computed: int, returned: int, tmp_path: Path) -> None:
    path = network(tmp_path, given=given, stored=stored, computed=computed, returned=returned)
    original = load_network(path, "onnx", ModelMetadata(), tmp_path)
    original.with_module(original.module).write_onnx(tmp_path / "out.onnx")
    before, after = onnx.load(path), onnx.load(tmp_path / "out.onnx")
    for side in ("input", "output"):
        kinds = [[(item.name, item.type.tensor_type.elem_type) for item in getattr(proto.graph, side)] for proto in (before, after)]
        assert kinds[0] == kinds[1]
    x = normal(5, 6, seed=7).astype(helper.tensor_dtype_to_np_dtype(given))
    want, got = (run_reference(proto, {"x": x}) for proto in (before, after))
    tolerance = 1e-2 if F16 in (given, stored, computed, returned) else 1e-5
    np.testing.assert_allclose(got[0].astype(np.float64), want[0].astype(np.float64), atol=tolerance)
    assert [value.dtype for value in got] == [value.dtype for value in want]
    np.testing.assert_array_equal(got[1], want[1])


def test_half_precision_weights_are_stored_in_half_again_and_count_the_same(tmp_path: Path) -> None:
    path = network(tmp_path, given=F16, stored=F16, computed=F16, returned=F16)
    original = load_network(path, "onnx", ModelMetadata(), tmp_path)
    module = original.module
    with torch.no_grad():
        module.get_parameter("fc1.weight").mul_(1.0001)
    original.with_module(module).write_onnx(tmp_path / "out.onnx")
    stored = {item.name: item for item in onnx.load(tmp_path / "out.onnx").graph.initializer}
    assert {item.data_type for item in stored.values() if np.prod(item.dims) > 1} == {F16}
    assert count_onnx(tmp_path / "out.onnx") == count_onnx(path)


def test_weights_beyond_half_precision_stay_single(tmp_path: Path) -> None:
    path = network(tmp_path, given=F16, stored=F16, computed=F16, returned=F16)
    original = load_network(path, "onnx", ModelMetadata(), tmp_path)
    module = original.module
    with torch.no_grad():
        module.get_parameter("fc2.bias")[0] = 1e6
    original.with_module(module).write_onnx(tmp_path / "out.onnx")
    stored = {item.name: item for item in onnx.load(tmp_path / "out.onnx").graph.initializer}
    assert numpy_helper.to_array(stored["fc2.bias"])[0] == np.float32(1e6)


def test_a_network_in_a_type_that_the_runtime_has_no_kernels_for_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = network(tmp_path, given=F32, stored=F32, computed=TensorProto.BFLOAT16, returned=F32)
    with pytest.raises(EngineError) as refused:
        runtime.open_session(path, threads=1)
    assert refused.value.code == "model_invalid"
    assert "float32" in (refused.value.hint or "")


def test_a_token_that_the_table_does_not_have_is_said_to_be_one(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [node("Gather", ["table", "ids"], ["y"])],
        "picked",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [None, 2])],
        [helper.make_tensor_value_info("y", F32, [None, 2, 4])],
        [numpy_helper.from_array(normal(6, 4), "table")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "picked.onnx")
    session = runtime.open_session(tmp_path / "picked.onnx", threads=1)
    with pytest.raises(EngineError) as refused:
        runtime.run(session, {"ids": np.array([[1, 6]])})
    assert "tokenizer" in (refused.value.hint or "")
    with pytest.raises(IndexError) as raised:
        torch.nn.Embedding(6, 4)(torch.tensor([[1, 6]]))
    assert translate(raised.value).code == "dataset_invalid"
