"""Rule 1: a static file computes what the float file does, up to rounding, on every network and operator of the test suite."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from engine.contract.errors import EngineError
from engine.methods.quantization import agreement
from engine.methods.quantization.plan import Plan
from engine.methods.quantization.quantizer import Quantizer
from tests.engine.conftest import make_split
from tests.engine.formats.onnx import graphs, test_layer_operators, test_moving_operators, test_operators, test_shape_arithmetic
from tests.engine.formats.onnx.exporting import export
from tests.engine.formats.onnx.networks import CASES
from tests.engine.methods.quantization.checking import decibels, dynamic, outputs, quantizer, static

CATALOGUE = (test_operators, test_layer_operators, test_moving_operators, test_shape_arithmetic)
globals().update(
    {
        name: function
        for module in CATALOGUE
        for name, function in vars(module).items()
        if name.startswith("test_") and "assert_same" in function.__code__.co_names
    }
)


@pytest.fixture(autouse=True)
def _quantized_instead_of_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The tests of the operators, which were taken over above, hand their graphs to quantization instead of the importer."""

    def check(proto: onnx.ModelProto, *feeds: dict[str, np.ndarray], tolerance: float = 1e-4) -> Any:
        path = tmp_path / "operator.onnx"
        onnx.save(proto, path)
        before = outputs(path, feeds[0])
        # Some graphs are fed with one number alone, off which no range can be read.
        if any(value.dtype != np.float32 or np.ptp(value) > 0 for value in feeds[0].values()):
            file, chosen, blamed = static(path, feeds[:1], tmp_path, operators="all")
            assert not blamed
            if chosen.nodes:
                assert decibels(before, outputs(file, feeds[0], optimized=False)) > 20
                assert decibels(before, outputs(file, feeds[0])) > 20
        if any(node.op_type in ("Conv", "Gather", "Gemm", "LSTM", "MatMul") for node in proto.graph.node):
            assert decibels(before, outputs(dynamic(path, tmp_path), feeds[0])) > 20
        return graphs.assert_same(proto, *feeds, tolerance=tolerance)

    for module in CATALOGUE:
        monkeypatch.setattr(module, "assert_same", check)


@pytest.mark.parametrize("name", CASES)
def test_networks_differ_by_rounding_alone(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    path = export(case.network(), case, tmp_path / "net.onnx", exporter="legacy")
    feed = {f"in{i}": value.numpy() for i, value in enumerate(case.inputs(16))}
    before = outputs(path, feed)
    for params in ({}, {"operators": "all"}, {"symmetric": True, "granularity": "tensor"}):
        file, chosen, blamed = static(path, [feed], tmp_path, **params)
        assert not blamed
        assert chosen.weights or name == "arithmetic"
        assert decibels(before, outputs(file, feed, optimized=False)) > (20 if params == {} else 8)
    assert decibels(before, outputs(dynamic(path, tmp_path), feed)) > 20


class Faulty(Quantizer):
    """A quantizer that gets the weights of some nodes wrong."""

    faults: tuple[str, ...]

    def write(self, chosen: Plan, target: Path) -> None:
        super().write(chosen, target)
        model = onnx.load(target)
        wrong = {
            node.input[chosen.weights[node.name]] for node in self.index.nodes if node.name in self.faults and node.name in chosen.weights
        }
        for item in model.graph.initializer:
            if item.name.removesuffix("_scale") in wrong:
                item.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(item) * np.float32(1.5), item.name))
        onnx.save(model, target)


@pytest.mark.parametrize("faults", [(), ("conv0",), ("conv1",), ("head",), ("conv0", "head")])
def test_the_operator_at_fault_is_found_and_left_in_float(cnn_onnx: Path, tmp_path: Path, faults: tuple[str, ...]) -> None:
    feeds = [{"x": make_split(16, 1).images}]
    made, excluded = quantizer(cnn_onnx, feeds, tmp_path)
    made.__class__, made.faults = Faulty, faults  # type: ignore[attr-defined]
    target = tmp_path / "static.onnx"
    blamed = agreement.settle(made, made.plan(excluded), excluded, target, feeds, threads=1, work=tmp_path)
    assert set(blamed) == set(faults)
    assert decibels(outputs(cnn_onnx, feeds[0]), outputs(target, feeds[0], optimized=False)) > 25
    stored = {item.name for item in onnx.load(target).graph.initializer if item.data_type == onnx.TensorProto.FLOAT and len(item.dims) > 1}
    assert len(stored) == len(faults)


def test_a_graph_that_no_few_operators_explain_is_refused(cnn_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feeds = [{"x": make_split(16, 1).images}]
    made, excluded = quantizer(cnn_onnx, feeds, tmp_path)
    made.__class__, made.faults = Faulty, ("conv0", "conv1", "head")  # type: ignore[attr-defined]
    monkeypatch.setattr(agreement, "_MOST_BLAMED", 2)
    with pytest.raises(EngineError) as caught:
        agreement.settle(made, made.plan(excluded), excluded, tmp_path / "static.onnx", feeds, threads=1, work=tmp_path)
    assert caught.value.code == "quantization_mismatch"


def test_the_graphs_of_the_catalogue_are_those_of_the_importers_tests() -> None:
    assert sum(name.startswith("test_") for name in globals()) > 25
    assert graphs.assert_same.__module__.endswith("graphs")
