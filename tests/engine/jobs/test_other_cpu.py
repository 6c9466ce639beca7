"""Every 8-bit file is scored for the kind of processor that the job does not run on as well."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper

from engine.contract.figures import OtherCpu
from engine.jobs import other_cpu
from engine.jobs.run import run_job
from tests.engine.small import save, write_job


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layer of large positive weights and inputs, whose sums a 16-bit kernel cuts."""
    folder = tmp_path_factory.mktemp("saturating")
    rng = np.random.default_rng(0)
    weights = {"a.weight": (1 + 0.2 * rng.standard_normal((16, 8))).astype(np.float32)}
    path = save(
        folder / "model.onnx",
        [helper.make_node("MatMul", ["x", "a.weight"], ["y"], "a")],
        weights,
        {"x": ["batch", 16]},
        {"y": ["batch", 8]},
    )
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    arrays = {}
    for split in ("train", "test"):
        x = rng.uniform(0, 1, (120, 16)).astype(np.float32)
        arrays |= {f"x_{split}": x, f"y_{split}": session.run(None, {"x": x})[0].argmax(1)}
    np.savez(folder / "data.npz", **arrays)  # type: ignore[arg-type]
    return folder


def run(files: Path, directory: Path, step: dict[str, Any]) -> tuple[dict[str, Any], set[str]]:
    spec = {"steps": [{"method": "static_quantization", **step}], "evaluation": {"latency": {"repeats": 5}}}
    assert run_job(write_job(directory, spec, model=files / "model.onnx", dataset=files / "data.npz"), lambda event: None) == 0
    report = json.loads((directory / "out" / "report.json").read_text())
    return report["settings"][0], {warning["code"] for warning in report["warnings"]}


@pytest.mark.parametrize("has_vnni", [True, False])
def test_a_file_for_vnni_is_scored_without_it_and_a_portable_one_gives_the_same(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_vnni: bool
) -> None:
    monkeypatch.setattr(other_cpu, "has_safe_int8", lambda: has_vnni)
    measured, warned = run(files, tmp_path / "vnni", {"target_cpu": "vnni"})
    found = measured["other_cpu"]
    assert found["products_count"] == 1
    if has_vnni:
        assert (found["kind"], found["how"]) == ("without_vnni", "emulated")
        assert found["metrics"]["test.top1"] < measured["figures"]["metrics"]["test.top1"] - 0.05
        assert "accuracy_depends_on_cpu" in warned
    else:
        assert (found["kind"], found["how"]) == ("with_vnni", "float_session")
    measured, warned = run(files, tmp_path / "portable", {})
    assert measured["other_cpu"]["how"] == "by_construction"
    assert measured["other_cpu"]["metrics"] == measured["figures"]["metrics"]
    assert "accuracy_depends_on_cpu" not in warned


def test_differences_of_half_a_point_are_noticed() -> None:
    own = {"test.top1": 0.9, "test.cosine": 0.9, "test.sqnr_db": 3.0, "test.agreement": None}
    there = OtherCpu(
        kind="with_vnni", how="float_session", metrics={"test.top1": 0.904, "test.cosine": 0.8, "test.sqnr_db": 30.0, "test.agreement": 1.0}
    )
    assert other_cpu.differing(own, there) == {"test.cosine": (0.9, 0.8)}
