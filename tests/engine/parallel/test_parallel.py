"""A job in two real processes, connected by gloo, comes to what one process comes to."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import helper
from safetensors.torch import load_file
from torch.testing import assert_close

from tests.engine.small import cnn_file, dataset_file

ROOT = Path(__file__).parents[3]
TRAINING = {"optimizer": "sgd", "learning_rate": 0.02, "schedule": "constant"}
SPEC: dict[str, Any] = {
    "steps": [
        {"method": "train", "epochs": 1, "batch_size": 37, "gradient_clip_norm": 1.0, **TRAINING},  # the last batch has four examples
        {"method": "structured_pruning", "pruning_ratio": 0.4, "finetune": {"iterations": 3, "batch_size": 32, **TRAINING}},
        {"method": "distillation", "teacher": "baseline", "epochs": 1, "batch_size": 299, **TRAINING},  # the last one has one
        {"method": "magnitude_pruning", "sparsity": 0.5, "finetune": {"iterations": 2, "batch_size": 33, **TRAINING}},
    ],
    "export": ["safetensors"],
    "evaluation": {"latency": {"repeats": 5}},
}


def with_dropout(path: Path) -> Path:
    """The CNN with batch normalization, and dropout before its last layer."""
    model = onnx.load(cnn_file(path))
    head = model.graph.node[-1]
    head.input[0] = "dropped"
    model.graph.node.insert(len(model.graph.node) - 1, helper.make_node("Dropout", ["flat"], ["dropped"], "drop"))
    onnx.save(model, path)
    return path


def run(folder: Path, name: str, *options: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights and report of a run through the command line."""
    out = folder / name
    command = [sys.executable, "-m", "engine", "run", folder / "spec.json", "--model", folder / "cnn.onnx", "--data", folder / "data.npz"]
    done = subprocess.run([*command, "--out", out, *options], check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return load_file(out / "model.safetensors"), json.loads((out / "report.json").read_text())


@pytest.mark.slow
def test_two_processes_come_to_the_weights_and_metrics_of_one(tmp_path: Path) -> None:
    """Batch statistics, dropout, gradients and decisions are those of the whole batch.

    Sums over a batch are added up in another order, which costs some 1e-7 a step: weights agree to 1e-5, metrics to 1e-4. A batch that
    was not divided right, or statistics of half a batch, differ by more than 1e-3.
    """
    with_dropout(tmp_path / "cnn.onnx")
    dataset_file(tmp_path / "data.npz")
    (tmp_path / "spec.json").write_text(json.dumps(SPEC))
    weights, report = run(tmp_path, "one")
    divided_weights, divided_report = run(tmp_path, "two", "--devices", "2")
    assert_close(divided_weights, weights, rtol=0, atol=1e-5)
    for one, two in zip(report["steps"], divided_report["steps"], strict=True):
        assert two["metrics"] == pytest.approx(one["metrics"], abs=1e-4, rel=1e-4)
        assert [point.get("train.loss") for point in two["report"].get("training", [])] == pytest.approx(
            [point.get("train.loss") for point in one["report"].get("training", [])], abs=1e-5
        )
    assert divided_report["spec"]["devices"] == 2
