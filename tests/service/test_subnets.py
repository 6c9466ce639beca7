"""Widths of one artifact, from upload to download: cut on demand, bit for bit what was measured, and promoted to models."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from modelpress.runtime import load
from tests.engine.small import save
from tests.plain import ApiError, Client

UNITS, CLASSES = 32, 3
RNG = np.random.default_rng(0)


def run(content: bytes | str, inputs: np.ndarray) -> np.ndarray:
    (found,) = ort.InferenceSession(content).run(None, {"x": inputs})
    return np.asarray(found)


@pytest.mark.slow
def test_a_width_is_cut_out_of_the_artifact_and_promoted(service_url: str, tmp_path: Path) -> None:
    weights = {
        "w0": RNG.standard_normal((UNITS, 8)).astype(np.float32), "b0": RNG.standard_normal(UNITS).astype(np.float32),
        "w1": RNG.standard_normal((CLASSES, UNITS)).astype(np.float32), "b1": RNG.standard_normal(CLASSES).astype(np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Gemm", ["x", "w0", "b0"], ["h"], "first", transB=1),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("Gemm", ["r", "w1", "b1"], ["y"], "second", transB=1),
    ]
    save(tmp_path / "m.onnx", nodes, weights, {"x": ["n", 8]}, {"y": ["n", CLASSES]})
    inputs = np.random.default_rng(1).standard_normal((200, 8)).astype(np.float32)
    labels = run(str(tmp_path / "m.onnx"), inputs).argmax(axis=1)
    np.savez(tmp_path / "d.npz", x_train=inputs, y_train=labels, x_test=inputs, y_test=labels)
    _check(Client(service_url), tmp_path, inputs)


def _check(client: Client, folder: Path, inputs: np.ndarray) -> None:
    model = client.upload("models", folder / "m.onnx", "onnx")
    dataset = client.upload("datasets", folder / "d.npz", "npz")
    spec = {
        "model": model["id"],
        "dataset": dataset["id"],
        "steps": [{"method": "slimmable", "widths": [0.25, 0.5, 1.0], "epochs": 2}],
        "constraints": {"max_macs_count": 200, "settings": "all"},
        "evaluation": {"latency": {"repeats": 5}},
    }
    job = client.end(client.json("POST", "/v1/jobs", spec)["id"])
    assert job["status"] == "succeeded", job["error"]
    measured = {item["setting"]["name"]: item for item in job["summary"]["settings"]}
    assert [item["figures"]["macs_count"] for item in measured.values()] == [352, 176, 88]
    assert (job["outcome"], job["summary"]["judged_setting"]) == ("constraints_not_met", "width 1")
    files = {file["filename"]: file for file in client.json("GET", f"/v1/jobs/{job['id']}/artifacts")["data"]}
    artifact = files["model.onnx"]
    assert not {name for name in files if name.endswith(".onnx")} - {"model.onnx"}
    assert [item["setting"]["name"] for item in artifact["settings"]] == list(measured)
    whole = folder / "whole.onnx"
    client.download(f"/v1/artifacts/{artifact['id']}/content", whole)

    # Each width is a plain file; asked for again, it is the same; the runtime cuts the very same out of the downloaded file.
    cut = {}
    for name, query in (("width 1", "width=1"), ("width 0.5", "setting=width%200.5"), ("width 0.25", "max_macs=100")):
        cut[name] = [client.send("GET", f"/v1/artifacts/{artifact['id']}/subnet?{query}").read() for _ in range(2)]
        assert cut[name][0] == cut[name][1]
        loaded = onnx.load_from_string(cut[name][0])
        assert not loaded.metadata_props
        answer = run(cut[name][0], inputs)
        assert np.array_equal(answer, load(whole, setting=name).run({"x": inputs})["y"])
        assert measured[name]["figures"]["macs_count"] <= 352
    assert np.array_equal(run(cut["width 1"][0], inputs), run(str(whole), inputs))
    assert measured["width 0.5"]["figures"]["file_bytes"] == len(cut["width 0.5"][0])
    slowest = max(item["figures"]["latency_ms"]["p50"] for item in measured.values())
    within = client.send("GET", f"/v1/artifacts/{artifact['id']}/subnet?max_latency_ms={slowest}")
    best = max(item["figures"]["metrics"]["test.top1"] for item in measured.values())
    assert measured[within.headers["Modelpress-Setting"].replace("%20", " ")]["figures"]["metrics"]["test.top1"] == best

    for query, code in (
        ("width=0.3", "setting_not_found"), ("max_macs=1", "no_setting_fits"), ("", "malformed_request"),
        ("width=1&max_macs=5", "malformed_request"),
    ):  # fmt: skip
        with pytest.raises(ApiError) as refused:
            client.send("GET", f"/v1/artifacts/{artifact['id']}/subnet?{query}")
        assert refused.value.code == code
    with pytest.raises(ApiError) as refused:
        client.send("GET", f"/v1/artifacts/{files['report.json']['id']}/subnet?width=1")
    assert refused.value.code == "settings_not_separable"

    # A width becomes a model of its own, and the whole file one that runs at the largest width.
    promoted = client.json("POST", f"/v1/artifacts/{artifact['id']}/promote", {"setting": "width 0.5"})
    assert promoted["size_bytes"] == len(cut["width 0.5"][0])
    assert promoted["lineage"]["artifact_id"] == artifact["id"]
    narrow = _inspected(client, promoted)
    assert (narrow["status"], narrow["macs_count"]) == ("ready", 176)
    again = _inspected(client, client.upload("models", whole, "onnx"))
    assert (again["status"], again["macs_count"]) == ("ready", 352)


def _inspected(client: Client, model: dict[str, Any]) -> dict[str, Any]:
    found = model
    for _ in range(300):
        found = client.json("GET", f"/v1/models/{model['id']}")
        if found["status"] != "inspecting":
            break
        time.sleep(0.1)
    return found
