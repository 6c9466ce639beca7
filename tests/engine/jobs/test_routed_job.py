"""A job that makes a network skip its blocks: what is measured on its files, and that two processes come to the same."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch.testing import assert_close

from engine.contract.events import Event, Failed
from engine.formats.onnx.networks import ModuleNetwork
from engine.jobs.run import run_job
from tests.engine.conftest import make_split, resnet, signature
from tests.engine.small import dataset_file, write_job

SPEC: dict[str, Any] = {
    "steps": [
        {
            "method": "skip_routing",
            "alphas": [3.0],
            "thresholds": [0.88, 0.878],
            "starting_logit": 20,
            "exploration": 0,
            "anneal": 0.5,
            "controls": ["full", "random"],
            "supervised": {"iterations": 12, "batch_size": 37, "learning_rate": 0.01, "optimizer": "sgd"},
            "reinforcement": {"iterations": 6, "batch_size": 37, "learning_rate": 0.01, "optimizer": "sgd"},
        }
    ],
    "evaluation": {"latency": {"repeats": 5, "batch_sizes": [1, 8]}},
    "constraints": {"max_macs_count": 1},
}


def job(directory: Path, model: Path, data: Path, **spec: Any) -> dict[str, Any]:
    failures: list[Event] = []
    write_job(directory, spec={**SPEC, **spec}, model=model, dataset=data)
    status = run_job(directory, lambda event: failures.append(event) if isinstance(event, Failed) else None)
    assert status == 0, failures
    found: dict[str, Any] = json.loads((directory / "out" / "report.json").read_text())
    return found


@pytest.mark.slow
def test_a_routed_network_is_measured_on_real_inputs_and_learned_by_two_processes_as_by_one(tmp_path: Path) -> None:
    torch.manual_seed(8)
    ModuleNetwork(signature(), resnet(4, 3).eval()).write_onnx(tmp_path / "model.onnx")
    data = dataset_file(tmp_path / "data.npz")
    report = job(tmp_path / "one", tmp_path / "model.onnx", data)
    routed, other, full = report["settings"]
    assert [item["setting"]["name"] for item in (routed, other, full)] == ["alpha 3 threshold 0.88", "alpha 3 threshold 0.878", "full"]

    # MACs are the mean of what the routes of the evaluated examples take, beside the gates' own, which are the same at each threshold;
    # the full network has no gate and costs what the upload does.
    step = report["steps"][0]["report"]
    macs, extras = step["macs"], []
    for item in (routed, other):
        rates = step["routes"][item["setting"]["name"]]["blocks"]
        assert 0 < min(rate["skip_rate"] for rate in rates.values()) < 1
        taken = sum((1 - rates[name]["skip_rate"]) * count for name, count in macs["branches"].items())
        extras.append(item["figures"]["macs_count"] - taken - macs["rest"])
    assert extras[0] == pytest.approx(extras[1])
    assert 0 < extras[0] <= macs["gates"]
    rates = step["routes"]["alpha 3 threshold 0.88"]
    assert full["figures"]["macs_count"] == report["baseline"]["macs_count"] == macs["rest"] + sum(macs["branches"].values())
    assert [len(item["figures"]["latencies"]) for item in (routed, full)] == [2, 2]
    assert routed["figures"]["latency_ms"]["inputs_count"] >= 5
    assert "inputs_count" not in full["figures"]["latency_ms"]
    assert routed["verdict"]["constraints"][0]["value"] == routed["figures"]["macs_count"]
    assert step["controls"]["random (alpha 3 threshold 0.88)"]["test.top1"] <= 1

    # The file says what was measured, in batches of any size.
    session = ort.InferenceSession(tmp_path / "one" / "out" / "model.onnx")
    split = make_split(200, 2)
    answers = np.concatenate([session.run(None, {"x": split.images[place : place + 7]})[0] for place in range(0, 200, 7)])
    assert (answers.argmax(1) == split.labels).mean() == pytest.approx(routed["figures"]["metrics"]["test.top1"])

    divided = job(tmp_path / "two", tmp_path / "model.onnx", data, devices=2)
    graphs = [onnx.load(tmp_path / name / "out" / "model.onnx").graph for name in ("one", "two")]
    weights = [{item.name: torch.from_numpy(onnx.numpy_helper.to_array(item).copy()) for item in graph.initializer} for graph in graphs]
    assert len(weights[0]) > 10
    assert_close(weights[1], weights[0], rtol=0, atol=1e-4)
    assert divided["steps"][0]["report"]["routes"]["alpha 3 threshold 0.88"]["skip_rate"] == pytest.approx(rates["skip_rate"], abs=0.01)
