"""A whole job with early exits: its settings, its files, and that they run and stop with numpy and onnxruntime alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from engine.contract import events
from engine.contract.errors import EngineError
from engine.contract.metadata import ModelMetadata
from engine.formats.loading import load_network
from engine.formats.onnx.networks import ModuleNetwork
from engine.jobs.run import run_job
from tests.engine.conftest import CLASSES
from tests.engine.small import dataset_file, save, write_job
from tests.modelpress.alone import run_alone

WIDTH, LAYERS = 24, 7
STEP = {
    "method": "early_exit", "positions": ["conv1"], "head": "linear", "budgets": [0.5], "controls": ["random_exits"], "iterations": 40, "learning_rate": 0.003,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(0)
    nodes, weights, last = [], {}, "x"
    for number in range(LAYERS):
        inputs = WIDTH if number else 1
        weights[f"conv{number}.weight"] = rng.normal(0, (2 / (9 * inputs)) ** 0.5, (WIDTH, inputs, 3, 3)).astype(np.float32)
        nodes.append(helper.make_node("Conv", [last, f"conv{number}.weight"], [f"c{number}"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]))
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"]))
        last = f"r{number}"
    weights |= {"fc.weight": rng.normal(0, 0.1, (CLASSES, WIDTH)).astype(np.float32), "fc.bias": np.zeros(CLASSES, np.float32)}
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("Gemm", ["features", "fc.weight", "fc.bias"], ["y"], transB=1),
    ]
    save(folder / "deep.onnx", nodes, weights, {"x": ["n", 1, 8, 8]}, {"y": ["n", CLASSES]})
    dataset_file(folder / "data.npz", test=120)
    spec = {"steps": [STEP], "evaluation": {"latency": {"repeats": 20}}, "constraints": {"accuracy": {"min": 0.0}, "max_macs_count": 1}}
    job = write_job(folder / "job", spec, model=folder / "deep.onnx", dataset=folder / "data.npz")
    told: list[events.Event] = []
    assert run_job(job, told.append) == 0, told[-1]
    return folder


@pytest.fixture(scope="module")
def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "job" / "out" / "report.json").read_text())
    return found


def test_every_setting_is_measured_and_judged(report: dict[str, Any]) -> None:
    budget, first, second = report["settings"]
    assert [item["setting"]["name"] for item in report["settings"]] == ["budget 0.5", "exit 1", "exit 2"]
    step = report["steps"][0]["report"]
    # What the budget's file really multiplied on the evaluated examples is what the step expected of it there.
    assert budget["figures"]["macs_count"] == pytest.approx(step["budgets"][0]["evaluated"]["macs_count"])
    assert first["figures"]["macs_count"] < budget["figures"]["macs_count"] < second["figures"]["macs_count"]
    assert second["figures"]["macs_count"] == report["baseline"]["macs_count"]
    assert budget["figures"]["metrics"]["test.top1"] == pytest.approx(step["budgets"][0]["evaluated"]["top1"])
    for exit, item in zip(step["exits"], (first, second), strict=True):
        assert item["figures"]["metrics"]["test.top1"] == pytest.approx(exit["evaluated.top1"])
    low, high = report["setting_intervals"]["exit 1"]["test.top1"]
    assert low < first["figures"]["metrics"]["test.top1"] < high
    # Real inputs, of which some are easy and some hard; a fixed exit costs the same for each.
    latency = budget["figures"]["latency_ms"]
    assert latency["inputs_count"] == 20
    assert latency["p10"] <= latency["p50"] <= latency["p90"]
    assert "mean" not in first["figures"]["latency_ms"]
    assert {item["verdict"]["outcome"] for item in report["settings"]} == {"constraints_not_met"}
    assert [item["type"] for item in report["steps"][0]["shown"]] == ["curve", "curve", "table", "table", "curve", "bars"]


def test_files_stop_with_nothing_but_numpy_and_onnxruntime(folder: Path, report: dict[str, Any], tmp_path: Path) -> None:
    """The runtime stops where the job said, and the budget's file takes less time than the network that was uploaded."""
    names = {item["filename"] for item in report["artifacts"]}
    assert {"model.onnx", "model-exit-1.onnx", "model-exit-2.onnx", "step0-stage1.onnx", "step0-stage2.onnx", "step0-exits.json"} <= names
    code = """
import json, sys, time
import numpy as np, onnxruntime as ort
import modelpress.runtime
out, full, data = sys.argv[1:]
images = np.load(data)["x_test"]
options = ort.SessionOptions()
options.intra_op_num_threads = 1
sessions = [ort.InferenceSession(path, options) for path in (full, out + "/model.onnx")]
answer = modelpress.runtime.load(out + "/step0-exits.json", budget=0.5).run({"x": images})
same = [float(np.abs(sessions[1].run(None, {"x": images[i : i + 1]})[0] - answer.outputs["y"][i]).max()) for i in range(len(images))]
best = float("inf")
for attempt in range(5):
    seconds = [0.0, 0.0]
    for i in range(len(images)):
        for k in (0, 1) if i % 2 else (1, 0):
            begin = time.perf_counter()
            sessions[k].run(None, {"x": images[i : i + 1]})
            seconds[k] += time.perf_counter() - begin
    best = min(best, seconds[1] / seconds[0])
    if best < 0.85:
        break
print(json.dumps({"difference": max(same), "shares": np.bincount(answer.exits, minlength=3)[1:].tolist(), "macs": answer.macs_count, "ratio": best}))
"""
    out = folder / "job" / "out"
    found = json.loads(run_alone(code, tmp_path, out, folder / "deep.onnx", folder / "data.npz"))
    budget = report["steps"][0]["report"]["budgets"][0]["evaluated"]
    assert found["difference"] < 1e-3
    assert np.array(found["shares"]) / sum(found["shares"]) == pytest.approx(budget["shares"])
    assert found["macs"] == pytest.approx(budget["macs_count"])
    assert found["ratio"] < 1, "the file that stops is faster than the network"


def test_a_promoted_budget_is_read_and_known_to_decide_by_its_input(folder: Path, tmp_path: Path) -> None:
    network = load_network(folder / "job" / "out" / "model.onnx", "onnx", ModelMetadata(), tmp_path)
    assert not isinstance(network, ModuleNetwork)
    assert network.input_dependent
    assert [spec.name for spec in network.signature.outputs] == ["y"]
    with pytest.raises(EngineError, match="control flow depends on the data"):
        network.module  # noqa: B018
    assert onnx.load(folder / "job" / "out" / "model.onnx").graph.output[0].name == "y"
