"""Methods of slimming, dynamic networks and training under rounding through a running service: upload, job, report, promotion, and read again."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch

from engine.formats.onnx.networks import ModuleNetwork
from modelpress.runtime import load
from tests.engine.conftest import make_split, resnet, signature
from tests.engine.small import cnn_file, dataset_file
from tests.plain import Client

BRIEF = {"iterations": 4, "batch_size": 32}
TEST = make_split(200, 2)
"""The test examples of `dataset_file`."""
ROUTES = {"method": "skip_routing", "alphas": [2.0], "thresholds": [0.4, 0.6], "supervised": BRIEF, "reinforcement": BRIEF}
PLAIN: list[dict[str, Any]] = [
    {"method": "network_slimming", "pruning_ratio": 0.4, "penalty": 0.01, "finetune": BRIEF, **BRIEF},
    {"method": "autoslim", "budget": {"macs_ratio": 0.6}, "step": 0.25, "finetune": BRIEF, **BRIEF},
    {"method": "specialists", "clusters": [[0, 1], [2, 3]], "distil": BRIEF, **BRIEF},
    {"method": "quantization_aware_training", **BRIEF},
    {"method": "binary_connect", **BRIEF},
    {"method": "ternary", **BRIEF},
    {"method": "codebook", "bits": 2, **BRIEF},
]
PACKED = {"binary_connect", "ternary", "codebook"}


@pytest.fixture(scope="module")
def inputs(service_url: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Identifiers of a network with batch normalization, a residual one, and their data."""
    client, folder = Client(service_url), tmp_path_factory.mktemp("inputs")
    with torch.random.fork_rng():
        torch.manual_seed(8)
        ModuleNetwork(signature(), resnet(4, 3).eval()).write_onnx(folder / "resnet.onnx")
    files = {"cnn": cnn_file(folder / "cnn.onnx"), "resnet": folder / "resnet.onnx"}
    models = {name: client.upload("models", path, "onnx")["id"] for name, path in files.items()}
    data = dataset_file(folder / "data.npz", splits=("train", "validation", "test"))
    return {**models, "data": client.upload("datasets", data, "npz")["id"]}


def done(client: Client, model: str, data: str, step: dict[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The summary of a job that ended well, and its files by name."""
    spec = {"model": model, "dataset": data, "steps": [step], "evaluation": {"latency": {"repeats": 5}}}
    job = client.end(client.json("POST", "/v1/jobs", spec)["id"])
    assert job["status"] == "succeeded", job["error"]
    files = client.json("GET", f"/v1/jobs/{job['id']}/artifacts")["data"]
    return job["summary"], {file["filename"]: file for file in files}


def inspected(client: Client, model: dict[str, Any]) -> dict[str, Any]:
    """The model once it is ready."""
    begun = time.monotonic()
    while model["status"] == "inspecting" and time.monotonic() < begun + 60:
        time.sleep(0.05)
        model = client.json("GET", f"/v1/models/{model['id']}")
    assert model["status"] == "ready", model
    return model


def promoted(client: Client, file: dict[str, Any], target: Path) -> dict[str, Any]:
    """The model that a file became, as it was read again; its bytes stand at `target`."""
    model = client.json("POST", f"/v1/artifacts/{file['id']}/promote", {})
    assert model["lineage"]["artifact_id"] == file["id"]
    model = inspected(client, model)
    client.download(f"/v1/models/{model['id']}/content", target)
    return dict(model)


def top1(file: Path, batch: int = 50) -> float:
    """Of the test examples, in ONNX Runtime."""
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    pieces = [TEST.images[start : start + batch] for start in range(0, TEST.count, batch)]
    answers = np.concatenate([session.run(None, {"x": piece})[0].argmax(1) for piece in pieces])
    return float((answers == TEST.labels).mean())


@pytest.mark.parametrize("step", PLAIN, ids=[step["method"] for step in PLAIN])
def test_a_result_is_promoted_and_says_what_was_reported(
    service_url: str, inputs: dict[str, str], tmp_path: Path, step: dict[str, Any]
) -> None:
    client = Client(service_url)
    summary, files = done(client, inputs["cnn"], inputs["data"], step)
    figures = summary["result"]
    model = promoted(client, files["model.onnx"], tmp_path / "model.onnx")
    assert top1(tmp_path / "model.onnx") == pytest.approx(figures["metrics"]["test.top1"])
    assert model["size_bytes"] == figures["file_bytes"]
    assert model["macs_count"] == figures["macs_count"]
    assert model["trainable"] == (step["method"] != "quantization_aware_training")
    if step["method"] in PACKED:
        client.download(f"/v1/artifacts/{files['step0-packed.safetensors']['id']}/content", tmp_path / "packed.safetensors")
        (answers,) = load(tmp_path / "packed.safetensors").run({"x": TEST.images})
        assert float((answers.argmax(1) == TEST.labels).mean()) == pytest.approx(figures["metrics"]["test.top1"])


def test_a_network_that_stops_early_and_one_of_its_exits_become_models(service_url: str, inputs: dict[str, str], tmp_path: Path) -> None:
    client = Client(service_url)
    step = {"method": "early_exit", "positions": ["layer_0"], "head": "linear", "budgets": [0.7], **BRIEF}
    summary, files = done(client, inputs["cnn"], inputs["data"], step)
    measured = {item["setting"]["name"]: item["figures"] for item in summary["settings"]}
    assert list(measured) == ["budget 0.7", "exit 1", "exit 2"]
    stops = promoted(client, files["model.onnx"], tmp_path / "stops.onnx")
    exit_1 = promoted(client, files["model-exit-1.onnx"], tmp_path / "exit.onnx")
    assert top1(tmp_path / "stops.onnx") == pytest.approx(measured["budget 0.7"]["metrics"]["test.top1"])
    assert top1(tmp_path / "stops.onnx", batch=1) == pytest.approx(measured["budget 0.7"]["metrics"]["test.top1"])
    assert top1(tmp_path / "exit.onnx") == pytest.approx(measured["exit 1"]["metrics"]["test.top1"])
    assert (stops["trainable"], exit_1["trainable"]) == (False, True)
    assert exit_1["macs_count"] == measured["exit 1"]["macs_count"]


def test_a_network_that_skips_blocks_becomes_a_model(service_url: str, inputs: dict[str, str], tmp_path: Path) -> None:
    client = Client(service_url)
    summary, files = done(client, inputs["resnet"], inputs["data"], ROUTES)
    measured = {item["setting"]["name"]: item["figures"] for item in summary["settings"]}
    assert list(measured) == ["alpha 2 threshold 0.4", "alpha 2 threshold 0.6"]
    named = {item["setting"]["name"]: file for file in files.values() for item in file.get("settings") or ()}
    for name, figures in measured.items():
        skips = promoted(client, named[name], tmp_path / "skips.onnx")
        assert not skips["trainable"]
        assert top1(tmp_path / "skips.onnx", batch=1) == pytest.approx(figures["metrics"]["test.top1"])
