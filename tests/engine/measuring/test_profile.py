"""The time of a run, by layers: what ONNX Runtime's profile says of the file, under the names of the file's own nodes."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from engine.contract.report import LayerChange, LayerSensitivity, LayerSide, StepReport
from engine.formats.onnx.executed import Kernel
from engine.jobs.layer_changes import with_sensitivities
from engine.measuring import profile
from engine.measuring.layer_table import layer_table
from engine.measuring.profile import WARM_UP_RUNS, Names, is_cheap, node_shares
from tests.engine.formats.onnx.test_counting_hidden import conditional
from tests.engine.small import save

EXAMPLE = np.random.default_rng(0).standard_normal((1, 16, 24, 24)).astype(np.float32)


def two_layers(path: Path) -> Path:
    """A convolution of 10,000 times as many products as the matrix behind it."""
    rng = np.random.default_rng(1)
    weights = {
        "c.weight": rng.standard_normal((64, 16, 3, 3)).astype(np.float32),
        "f.weight": rng.standard_normal((64, 8)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "c.weight"], ["c"], "conv"),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["v"], "flat"),
        helper.make_node("MatMul", ["v", "f.weight"], ["y"], "matmul"),
    ]
    save(path, nodes, weights, {"x": ["n", 16, 24, 24]}, {"y": ["n", 8]})
    return path


def test_a_layer_has_the_time_of_its_kernels(tmp_path: Path) -> None:
    path = two_layers(tmp_path / "model.onnx")
    for _ in range(3):  # another process may take the processor while one of the two runs
        shares = node_shares(path, {"x": EXAMPLE}, threads=1, p50_ms=1.0)
        if shares["matmul"] < shares["conv"]:
            break
    assert set(shares) <= {"conv", "relu", "pool", "flat", "matmul"}
    assert 0 < shares["matmul"] < shares["conv"] < 1
    assert sum(shares.values()) <= 1 + 1e-9
    conv, matmul = layer_table(path, path, (shares, {}))
    assert (conv.latency_share_before, conv.latency_share_after) == (shares["conv"], None)
    assert (conv.node, matmul.node, matmul.latency_share_before) == ("conv", "matmul", shares["matmul"])


def test_the_first_runs_of_a_kernel_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime allocates and packs weights then: here the first runs of the one layer take a thousand times as long."""
    runs = [*[(1000.0, 1.0)] * WARM_UP_RUNS, *[(1.0, 3.0)] * 5]
    measured = [Kernel(name, (), (), took) for pair in runs for name, took in zip(("conv", "matmul"), pair, strict=True)]
    monkeypatch.setattr(profile, "kernels", lambda session: measured)
    shares = node_shares(two_layers(tmp_path / "model.onnx"), {"x": EXAMPLE}, threads=1, p50_ms=1.0)
    assert shares == {"conv": 0.25, "matmul": 0.75}


@pytest.mark.parametrize(
    ("kernel", "node"),
    [
        ("conv", "conv"),
        ("fused conv", "conv"),
        ("conv_token_3", "conv"),
        ("conv_token_3_token_12", "conv"),
        ("r_nchwc", "conv"),
        ("p_nchwc", "pool"),
        ("ReorderOutput", None),
        ("other_nchwc", None),
    ],
)
def test_a_kernel_is_known_by_what_the_runtime_calls_it(tmp_path: Path, kernel: str, node: str | None) -> None:
    assert Names(onnx.load(two_layers(tmp_path / "model.onnx")).graph).of(kernel) == node


def test_branches_are_not_told_apart(tmp_path: Path) -> None:
    onnx.save(conditional((24, 24), np.array(True)), tmp_path / "model.onnx")
    assert node_shares(tmp_path / "model.onnx", {"x": np.zeros((1, 4), np.float32)}, threads=1, p50_ms=1.0) == {}


def test_slow_files_are_left_alone(tmp_path: Path) -> None:
    path = two_layers(tmp_path / "model.onnx")
    assert is_cheap(path, 1.0)
    assert not is_cheap(path, 26.0)


def test_the_first_step_that_measured_a_layer_speaks_for_it() -> None:
    side = LayerSide(shape=(1,), params_count=1, bytes=4, bits=32, sparsity=0)
    layers = [LayerChange(name=name, type="Conv", node=f"/{name}", before=side, after=None) for name in "abc"]

    def step(index: int, *names: str) -> StepReport:
        found = {name: LayerSensitivity(step_index=index, tried="tried", key="validation.top1", value=0.5) for name in names}
        return StepReport(index=index, method="m", title="m", duration_seconds=0, metrics={}, report={}, sensitivities=found)

    found = with_sensitivities(layers, [step(0, "a"), step(1, "a", "/b")])
    assert [item.sensitivity and item.sensitivity.step_index for item in found] == [0, 1, None]
