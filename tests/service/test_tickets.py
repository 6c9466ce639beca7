"""The lottery ticket from end to end: an architecture without weights, its ticket, and the ticket trained again by another job."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import load, numpy_helper

from tests.plain import Client

pytestmark = pytest.mark.timeout(120)
TRAINING = {"iterations": 60, "batch_size": 64}


def run(client: Client, spec: dict[str, Any]) -> dict[str, Any]:
    """The job of a spec when it has ended well."""
    job = client.end(client.json("POST", "/v1/jobs", spec)["id"])
    assert job["status"] == "succeeded", job["error"]
    return job


def artifact(client: Client, job: dict[str, Any], kind: str, format: str) -> dict[str, Any]:
    """The job's artifact of a kind and format."""
    found = client.json("GET", f"/v1/jobs/{job['id']}/artifacts")["data"]
    return next(item for item in found if (item["kind"], item["format"]) == (kind, format))


def test_a_ticket_of_an_architecture_is_trained_again_by_another_job(service_url: str, tmp_path: Path) -> None:
    client = Client(service_url)
    dataset = client.json("GET", "/v1/datasets?sort=created_at")["data"][0]["id"]
    model = client.json("POST", "/v1/models", {"name": "lenet", "architecture": {"name": "lenet_300_100", "seed": 1}})
    common = {"dataset": dataset, "evaluation": {"latency": {"repeats": 5}}}
    ticket = {"method": "lottery_ticket", "rounds": 2, "rate": 0.5, "controls": [], "training": TRAINING}
    drawn = run(client, {**common, "model": model["id"], "steps": [ticket]})
    found = artifact(client, drawn, "ticket", "safetensors")
    promoted = client.json("POST", f"/v1/artifacts/{found['id']}/promote", {"name": "ticket"})
    assert promoted["metadata"]["architecture"] == {"name": "lenet_300_100"}
    again = {"method": "train", "hold_zeros": True, **TRAINING}
    trained = run(client, {**common, "model": promoted["id"], "steps": [again]})
    before, after = trained["summary"]["baseline"], trained["summary"]["result"]
    assert after["metrics"]["test.top1"] > before["metrics"]["test.top1"] + 0.2
    client.download(f"/v1/artifacts/{artifact(client, trained, 'model', 'onnx')['id']}/content", tmp_path / "trained.onnx")
    weights = [numpy_helper.to_array(item) for item in load(tmp_path / "trained.onnx").graph.initializer if len(item.dims) == 2]
    kept = {weight.size: np.count_nonzero(weight) for weight in weights}
    assert kept == {784 * 300: 784 * 300 // 4, 300 * 100: 300 * 100 // 4, 100 * 10: 562}  # the output layer loses a quarter a round
