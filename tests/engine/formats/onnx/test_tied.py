"""Tensors that several places read stay one: in the module, in the file that is written, and in the count."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from engine.contract.errors import EngineError
from engine.contract.metadata import ModelMetadata
from engine.formats import load_network
from engine.formats.onnx.counting import count_onnx
from engine.formats.onnx.importer.rebuild import build_module
from tests.engine.formats.onnx.exporting import export
from tests.engine.formats.onnx.graphs import BATCH, assert_same, model, node, normal, run_reference
from tests.engine.formats.onnx.networks import CASES

TIED = {
    "decoder": [
        node("MatMul", ["x", "w"], ["h0"]),
        node("Add", ["h0", "b"], ["h1"]),
        node("Sigmoid", ["h1"], ["h"]),
        node("Transpose", ["w"], ["wt"], perm=[1, 0]),
        node("MatMul", ["h", "wt"], ["y0"]),
        node("Add", ["y0", "c"], ["y"]),
    ],
    "gemm": [
        node("Gemm", ["x", "w", "b"], ["h1"]),
        node("Sigmoid", ["h1"], ["h"]),
        node("Gemm", ["h", "w", "c"], ["y"], transB=1),
    ],
    "two biases": [
        node("MatMul", ["x", "w"], ["h0"]),
        node("Add", ["h0", "b"], ["h"]),
        node("Gemm", ["h", "w", "c"], ["g"], transB=1),
        node("MatMul", ["g", "w"], ["h2"]),
        node("Add", ["h2", "d"], ["y"]),
    ],
}


@pytest.mark.parametrize("name", TIED)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_matrix_and_its_transpose_are_one_parameter_and_stored_once(name: str, tmp_path: Path) -> None:
    constants = {"w": normal(6, 4, seed=1), "b": normal(4, seed=2), "c": normal(6, seed=3), "d": normal(4, seed=4)}
    used = {key: value for key, value in constants.items() if any(key in item.input for item in TIED[name])}
    proto = model(TIED[name], {"x": [BATCH, 6]}, ["y"], used)
    module = assert_same(proto, {"x": normal(3, 6)})
    assert sum(value.numel() for value in module.parameters()) == sum(value.size for value in used.values())
    onnx.save(proto, tmp_path / "tied.onnx")
    network = load_network(tmp_path / "tied.onnx", "onnx", ModelMetadata(), tmp_path)
    with torch.no_grad():
        next(value for value in network.module.parameters() if value.dim() == 2).mul_(0.5)
    network.with_module(network.module).write_onnx(tmp_path / "out.onnx")
    assert count_onnx(tmp_path / "out.onnx").params_count == count_onnx(tmp_path / "tied.onnx").params_count
    halved = model(TIED[name], {"x": [BATCH, 6]}, ["y"], used | {"w": used["w"] / 2})
    feed = {"x": normal(5, 6, seed=9)}
    np.testing.assert_allclose(run_reference(onnx.load(tmp_path / "out.onnx"), feed)[0], run_reference(halved, feed)[0], atol=1e-5)


def test_an_output_matrix_that_is_a_table_transposed_is_stored_once(tmp_path: Path) -> None:
    case = CASES["tied_lm"]
    for exporter in ("legacy", "dynamo"):
        network = load_network(export(case.network(), case, tmp_path / "in.onnx", exporter=exporter), "onnx", ModelMetadata(), tmp_path)
        network.with_module(network.module).write_onnx(tmp_path / "out.onnx")
        assert count_onnx(tmp_path / "out.onnx").params_count == sum(item.numel() for item in case.network().parameters())


@pytest.mark.parametrize("shape", [(4, 1), (4, 3)])
def test_a_constant_with_a_row_for_each_example_of_a_fixed_batch_is_refused_for_that(shape: tuple[int, int]) -> None:
    layers = [node("Gemm", ["x", "w", "rows"], ["y"], transB=1)]
    proto = model(layers, {"x": [4, 6]}, ["y"], {"w": normal(3, 6), "rows": normal(*shape)})
    with pytest.raises(EngineError) as caught:
        build_module(proto)
    assert caught.value.code == "unsupported_operator"
    assert "'rows' has a row for each of the 4 examples" in caught.value.message
    assert "dynamic_axes" in str(caught.value.hint)
