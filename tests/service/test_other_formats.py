"""Files other than ONNX through a running service: results become models again by promotion and by upload, and programs in half precision."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.small import cnn_file, dataset_file, trained_cnn
from tests.plain import ApiError, Client
from tests.service.test_methods import TEST, done, inspected, promoted

PRUNE: dict[str, Any] = {"method": "structured_pruning", "pruning_ratio": 0.5}
OTHERS = ("safetensors", "pt2", "huggingface")


@pytest.fixture(scope="module")
def data(service_url: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = dataset_file(tmp_path_factory.mktemp("data") / "data.npz", splits=("train", "validation", "test"))
    return str(Client(service_url).upload("datasets", path, "npz")["id"])


def test_results_in_every_format_are_promoted_and_uploaded_again(service_url: str, data: str, tmp_path: Path) -> None:
    client = Client(service_url)
    model = client.upload("models", cnn_file(tmp_path / "cnn.onnx", trained_cnn()), "onnx")
    spec = {"model": model["id"], "dataset": data, "steps": [PRUNE], "evaluation": {"latency": {"repeats": 5}}}
    job = client.end(client.json("POST", "/v1/jobs", {**spec, "export": ["onnx", *OTHERS]})["id"])
    assert job["status"] == "succeeded", job["error"]
    figures = job["summary"]["result"]
    listed = client.json("GET", f"/v1/jobs/{job['id']}/artifacts")["data"]
    files = {file["format"]: file for file in listed if file["kind"] == "model" and file.get("step_index") is None}
    for format in OTHERS:
        target = tmp_path / files[format]["filename"]
        again = promoted(client, files[format], target)
        uploaded = inspected(client, client.upload("models", target, format))  # without metadata: the file says what it is
        for found in (again, uploaded):
            assert (found["format"], found["trainable"]) == (format, True)
            assert found["macs_count"] == figures["macs_count"]
        if format == "safetensors":
            summary, _ = done(client, uploaded["id"], data, {"method": "int8_quantization"})
            assert summary["baseline"]["metrics"]["test.top1"] == pytest.approx(figures["metrics"]["test.top1"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_programs(service_url: str, data: str, tmp_path: Path, dtype: torch.dtype) -> None:
    """float16 runs jobs; arrays cannot hold bfloat16, which is said before a job begins."""
    client, module = Client(service_url), trained_cnn().eval().to(dtype)
    images = torch.as_tensor(TEST.images).to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, (images[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, tmp_path / "half.pt2")
    model = inspected(client, client.upload("models", tmp_path / "half.pt2", "pt2"))
    if dtype == torch.bfloat16:
        with pytest.raises(ApiError, match="bfloat16") as refused:
            client.json("POST", "/v1/jobs", {"model": model["id"], "dataset": data, "steps": [PRUNE]})
        assert refused.value.code == "shape_mismatch"
        assert "float32" in str(refused.value)
        return
    with torch.no_grad():
        expected = float((module(images).argmax(1) == torch.as_tensor(TEST.labels)).float().mean())
    summary, _ = done(client, model["id"], data, PRUNE)
    assert summary["baseline"]["metrics"]["test.top1"] == pytest.approx(expected, abs=0.011)
    assert summary["result"]["macs_count"] < summary["baseline"]["macs_count"]
