import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from engine.contract.errors import EngineError
from engine.jobs.run import run_job
from engine.methods.quantization.int8_quantization import apply, choose
from engine.methods.quantization.spec import Int8Quantization
from engine.methods.quantization.tries import Try, is_near
from tests.engine.small import save, write_job

OUTLIER = 1e4


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, the first of which reads a feature that is huge and means nothing: eight bits for all features leave none to the others."""
    folder = tmp_path_factory.mktemp("outlier")
    rng = np.random.default_rng(0)
    weights = {
        "a.weight": rng.standard_normal((64, 16)).astype(np.float32),
        "a.bias": rng.standard_normal(64).astype(np.float32) * 0.1,
        "b.weight": rng.standard_normal((4, 64)).astype(np.float32),
        "b.bias": np.zeros(4, np.float32),
    }
    weights["a.weight"][:, 0] = 0
    nodes = [
        helper.make_node("Gemm", ["x", "a.weight", "a.bias"], ["h"], "first", transB=1),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("Gemm", ["r", "b.weight", "b.bias"], ["y"], "second", transB=1),
    ]
    path = save(folder / "model.onnx", nodes, weights, {"x": ["batch", 16]}, {"y": ["batch", 4]})
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    arrays = {}
    for split, count in (("train", 200), ("test", 200)):
        x = rng.standard_normal((count, 16)).astype(np.float32)
        x[:, 0] *= OUTLIER
        arrays |= {f"x_{split}": x, f"y_{split}": session.run(None, {"x": x})[0].argmax(1)}
    np.savez(folder / "data.npz", **arrays)  # type: ignore[arg-type]
    return folder


def run(files: Path, directory: Path, **spec: Any) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The job's report and its tries by kind."""
    spec = {"quantize": "int8", "evaluation": {"latency": {"repeats": 5}}, **spec}
    assert run_job(write_job(directory, spec, model=files / "model.onnx", dataset=files / "data.npz"), lambda event: None) == 0
    report = json.loads((directory / "out" / "report.json").read_text())
    return report, {item["kind"]: item for item in report["steps"][0]["report"]["tries"]}


def test_the_kind_that_keeps_the_accuracy_is_published_and_every_try_reported(files: Path, tmp_path: Path) -> None:
    report, tries = run(files, tmp_path, constraints={"accuracy": {"max_drop": 0.01}})
    assert list(tries) == ["static", "static_smoothed", "static_fewer_operators", "dynamic"]
    assert tries["static"]["metrics"]["test.top1"] < 0.7
    assert [kind for kind, item in tries.items() if item["kept"]] == ["static_fewer_operators"]
    assert report["outcome"] == "constraints_met"
    assert report["result"]["metrics"]["test.top1"] == tries["static_fewer_operators"]["metrics"]["test.top1"] > 0.98
    assert report["result"]["file_bytes"] == tries["static_fewer_operators"]["file_bytes"]
    assert report["steps"][0]["report"]["left_in_float"] == ["first"]
    assert all(item["speedup"] > 0 and item["file_bytes"] > 0 for item in tries.values())
    table = next(item for item in report["steps"][0]["shown"] if "tried" in item["title"])
    assert [row[:2] for row in table["rows"]] == [
        ["static", "too far"],
        ["static smoothed", "too far"],
        ["static fewer operators", "kept"],
        ["dynamic", "too far"],
    ]


def test_without_a_target_one_point_is_the_measure(files: Path, tmp_path: Path) -> None:
    report, tries = run(files, tmp_path)
    assert {kind: item["near_enough"] for kind, item in tries.items()} == {
        "static": False,
        "static_smoothed": False,
        "static_fewer_operators": True,
        "dynamic": False,
    }
    assert report["result"]["metrics"]["test.top1"] > 0.98


def test_a_kind_that_cannot_be_had_is_a_try_too(files: Path, tmp_path: Path) -> None:
    with np.load(files / "data.npz") as stored:
        np.savez(tmp_path / "test_only.npz", x_test=stored["x_test"], y_test=stored["y_test"])
    (tmp_path / "model.onnx").write_bytes((files / "model.onnx").read_bytes())
    (tmp_path / "test_only.npz").rename(tmp_path / "data.npz")
    report, tries = run(tmp_path, tmp_path / "job")
    assert tries["static"]["error"]["code"] == "dataset_invalid"
    assert tries["dynamic"]["kept"]
    assert any(node.op_type == "MatMulInteger" for node in onnx.load(tmp_path / "job" / "out" / "model.onnx").graph.node)
    assert report["steps"][0]["report"]["scored_at_batch_size"] == 1


def test_where_all_kinds_fail_the_first_says_why(bench: Callable[..., Any], tmp_path: Path) -> None:
    path = save(
        tmp_path / "abs.onnx", [helper.make_node("Abs", ["x"], ["y"], "abs")], {}, {"x": ["batch", 1, 8, 8]}, {"y": ["batch", 1, 8, 8]}
    )
    world = bench(path)
    with pytest.raises(EngineError) as caught:
        apply(world.network, Int8Quantization(), world.context)
    assert caught.value.code == "nothing_quantized"


def test_products_stay_in_float_until_the_target_is_met(files: Path, tmp_path: Path) -> None:
    spec: dict[str, Any] = {
        "steps": [{"method": "static_quantization", "mixed_precision": True}],
        "evaluation": {"latency": {"repeats": 5}},
    }
    spec["constraints"] = {"accuracy": {"max_drop": 0.01}}
    assert run_job(write_job(tmp_path, spec, model=files / "model.onnx", dataset=files / "data.npz"), lambda event: None) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    found = report["steps"][0]["report"]["mixed_precision"]
    assert found["left_in_float"] == ["first"]
    assert list(found["sqnr_db"]) == ["first", "second"]
    shown = {row["node"]: row["sensitivity"] for row in report["layers"]}
    assert {node: row["value"] for node, row in shown.items()} == pytest.approx(found["sqnr_db"], abs=0.006)
    assert {row["key"] for row in shown.values()} == {"signal_over_error"}
    assert [(item["kind"], item["near_enough"], item["kept"]) for item in found["tries"]] == [
        ("0 in float", False, False),
        ("1 in float", True, True),
    ]
    assert report["outcome"] == "constraints_met"
    assert report["steps"][0]["report"]["float_operators_count"] >= 1


class Judging:
    """A judge that looks at what a try brings along."""

    def __init__(self, *, has_target: bool) -> None:
        self.has_target = has_target

    def quality(self, metrics: Mapping[str, float | None]) -> tuple[float, ...]:
        return (metrics["q"] or 0.0,)


def made(kind: str, size: int, speed: float, quality: float, *, near: bool) -> Try:
    return Try(kind, file_bytes=size, speedup=speed, metrics={"q": quality}, near=near)


def test_the_smallest_that_meets_the_target_or_the_fastest_that_is_near_or_the_nearest() -> None:
    tries = [made("a", 10, 1.0, 0.9, near=True), made("b", 20, 2.0, 0.8, near=True), made("c", 5, 9.0, 0.1, near=False)]
    assert choose(tries, Judging(has_target=True), 30).kind == "a"  # type: ignore[arg-type]
    assert choose(tries, Judging(has_target=False), 30).kind == "b"  # type: ignore[arg-type]
    for item in tries:
        item.near = False
    assert choose(tries, Judging(has_target=True), 30).kind == "a"  # type: ignore[arg-type]
    assert choose(tries[1:], None, 30).kind == "b"


def test_a_file_that_is_larger_than_the_networks_own_is_kept_only_where_all_are() -> None:
    tries = [made("larger", 40, 2.0, 0.9, near=True), made("a", 10, 1.0, 0.8, near=True), made("far", 5, 9.0, 0.1, near=False)]
    assert choose(tries, Judging(has_target=False), 30).kind == "a"  # type: ignore[arg-type]
    assert choose(tries, Judging(has_target=False), 8).kind == "larger"  # type: ignore[arg-type]
    assert choose(tries[::2], Judging(has_target=False), 30).kind == "larger"  # type: ignore[arg-type]
    for item in tries:
        item.near = False
    assert choose(tries, Judging(has_target=False), 30).kind == "a"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("baseline", "metrics", "near"),
    [
        ({"test.top1": 0.9}, {"test.top1": 0.89, "test.cosine": 0.1}, True),
        ({"test.top1": 0.9}, {"test.top1": 0.889, "test.cosine": 1.0}, False),
        ({"test.agreement": 1.0}, {"test.agreement": 0.99, "test.cosine": 0.5}, True),
        ({"test.agreement": 1.0}, {"test.agreement": 0.41, "test.cosine": 1.0}, False),
        ({"test.cosine": 1.0}, {"test.cosine": 0.991}, True),
        ({"test.cosine": 1.0}, {"test.cosine": 0.98}, False),
        ({"test.agreement": 1.0, "test.agreement.b": 1.0}, {"test.agreement": 1.0, "test.agreement.b": 0.5}, False),
    ],
)
def test_near_is_a_point_of_accuracy_or_a_cosine(baseline: dict[str, float], metrics: dict[str, float], near: bool) -> None:
    assert is_near(baseline, metrics) is near


def test_dynamic_is_published_where_every_static_kind_is_too_far(tmp_path: Path) -> None:
    """Examples a thousand times larger than others, through layers without biases: no fixed range holds both, in any layer."""
    rng = np.random.default_rng(0)
    names = ("w1", "w2", "w3", "w4")
    shapes = ((16, 32), (32, 32), (32, 32), (32, 5))
    weights = {name: (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32) for name, shape in zip(names, shapes, strict=True)}
    nodes = [helper.make_node("MatMul", ["x", "w1"], ["a1"], "m1"), helper.make_node("Relu", ["a1"], ["r1"], "r1")]
    for layer in (2, 3):
        nodes += [
            helper.make_node("MatMul", [f"r{layer - 1}", f"w{layer}"], [f"a{layer}"], f"m{layer}"),
            helper.make_node("Relu", [f"a{layer}"], [f"r{layer}"], f"r{layer}"),
        ]
    nodes.append(helper.make_node("MatMul", ["r3", "w4"], ["y"], "m4"))
    path = save(tmp_path / "model.onnx", nodes, weights, {"x": ["batch", 16]}, {"y": ["batch", 5]})
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    arrays = {}
    for split in ("train", "test"):
        x = (rng.standard_normal((1000, 16)) * 10 ** rng.uniform(-1.5, 1.5, (1000, 1))).astype(np.float32)
        scores = session.run(None, {"x": x})[0]
        first, second = np.sort(scores, axis=1)[:, :-3:-1].T
        clear = np.argsort((second - first) / np.abs(scores).max(1))[:200]
        arrays |= {f"x_{split}": x[clear], f"y_{split}": scores[clear].argmax(1)}
    np.savez(tmp_path / "data.npz", **arrays)  # type: ignore[arg-type]
    report, tries = run(tmp_path, tmp_path / "job")
    assert not any(item.get("near_enough") for kind, item in tries.items() if kind != "dynamic")
    assert tries["dynamic"]["kept"]
    assert report["result"]["metrics"]["test.top1"] == tries["dynamic"]["metrics"]["test.top1"] >= 0.98
    assert any(node.op_type == "MatMulInteger" for node in onnx.load(tmp_path / "job" / "out" / "model.onnx").graph.node)
    assert "quantized_too_far" not in {warning["code"] for warning in report["warnings"]}
