"""The runtime of early exits, on stages that are written by hand: one whose carried tensors have the batch in front, behind, and not at all."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from modelpress.runtime import ArtifactError, load
from tests.engine.small import save

RNG = np.random.default_rng(0)
A, B, C = (RNG.standard_normal(shape).astype(np.float32) for shape in ((4, 3), (4, 4), (4, 3)))
K = np.float32(0.5)
NEVER = float("inf")


def expected(inputs: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Outputs of both exits, and the confidence of the first."""
    first = inputs @ A
    return [first, (inputs @ B) @ C + K * inputs.sum(axis=1, keepdims=True)], first.max(axis=1)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    first = [
        helper.make_node("MatMul", ["x", "A"], ["y"]),
        helper.make_node("ReduceMax", ["y"], ["sure"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["x", "B"], ["h"]),
        helper.make_node("Transpose", ["x"], ["turned"], perm=[1, 0]),
        helper.make_node("Identity", ["K"], ["k"]),
    ]
    outputs = {"y": ["n", 3], "sure": ["n"], "h": ["n", 4], "turned": [4, "n"], "k": []}
    save(folder / "s1.onnx", first, {"A": A, "B": B, "K": K}, {"x": ["n", 4]}, outputs)
    second = [
        helper.make_node("MatMul", ["h", "C"], ["product"]),
        helper.make_node("ReduceSum", ["turned", "axis"], ["summed"], keepdims=0),
        helper.make_node("Mul", ["summed", "k"], ["scaled"]),
        helper.make_node("Unsqueeze", ["scaled", "one"], ["column"]),
        helper.make_node("Add", ["product", "column"], ["y"]),
        helper.make_node("ReduceMax", ["y"], ["sure"], axes=[1], keepdims=0),
    ]
    constants = {"C": C, "axis": np.array([0]), "one": np.array([1])}
    save(
        folder / "s2.onnx",
        second,
        constants,
        {"h": ["n", 4], "turned": [4, "n"], "k": (TensorProto.FLOAT, [])},
        {"y": ["n", 3], "sure": ["n"]},
    )
    document = {
        "modelpress": "early_exit",
        "version": 1,
        "files": {
            f"stage {k}": {"name": f"s{k}.onnx", "sha256": hashlib.sha256((folder / f"s{k}.onnx").read_bytes()).hexdigest()} for k in (1, 2)
        },
        "inputs": ["x"],
        "outputs": ["y"],
        "batch_axes": {"x": 0, "h": 0, "turned": 1, "k": None},
        "stages": [
            {"file": "stage 1", "takes": ["x"], "gives": ["h", "turned", "k"]},
            {"file": "stage 2", "takes": ["h", "turned", "k"], "gives": []},
        ],
        "macs_counts": [12, 40],
        "budgets": [{"budget": 0.5, "thresholds": [1.0]}, {"budget": 1.0, "thresholds": [None]}],
    }
    path = folder / "exits.json"
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("batch_size", [None, 1, 3, 100])
def test_every_example_gets_the_answer_of_its_own_exit(manifest: Path, batch_size: int | None) -> None:
    inputs = np.random.default_rng(1).standard_normal((20, 4)).astype(np.float32)
    exits, sure = expected(inputs)
    stops = sure >= 1
    assert 0 < stops.sum() < 20
    answer = load(manifest, budget=0.5).run({"x": inputs}, batch_size=batch_size)
    assert answer.exits.tolist() == np.where(stops, 1, 2).tolist()
    np.testing.assert_allclose(answer.outputs["y"], np.where(stops[:, None], exits[0], exits[1]), rtol=1e-4, atol=1e-5)
    assert answer.macs_count == pytest.approx(np.where(stops, 12, 40).mean())
    np.testing.assert_allclose(answer.confidences[stops], sure[stops], rtol=1e-5)
    one_by_one = [load(manifest, budget=0.5).run({"x": row[None]}) for row in inputs[:4]]
    np.testing.assert_allclose(np.concatenate([item.outputs["y"] for item in one_by_one]), answer.outputs["y"][:4], rtol=1e-5, atol=1e-6)


def test_a_stage_that_nothing_reaches_is_not_run(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = load(manifest, thresholds=[-1e30])
    monkeypatch.setattr(network._stages[1], "run", lambda *_: pytest.fail("the second stage ran"))
    assert network.run({"x": np.zeros((5, 4), np.float32)}).exits.tolist() == [1] * 5


def test_the_thresholds_of_a_budget_may_be_never(manifest: Path) -> None:
    inputs = np.full((3, 4), 100, np.float32)
    network = load(manifest, budget=1.0)
    assert network.thresholds == (NEVER,)
    assert network.run({"x": inputs}).exits.tolist() == [2] * 3
    network.use(budget=0.5)
    assert network.thresholds == (1.0,)
    assert load(manifest).thresholds == (1.0,), "the first budget, where none is named"


def test_an_answer_at_any_time(manifest: Path) -> None:
    inputs = np.random.default_rng(2).standard_normal((4, 4)).astype(np.float32)
    found = list(load(manifest).anytime({"x": inputs}))
    for answer, wanted in zip(found, expected(inputs)[0], strict=True):
        np.testing.assert_allclose(answer.outputs["y"], wanted, rtol=1e-4, atol=1e-5)
    assert [answer.macs_count for answer in found] == [12, 40]


def test_what_cannot_be_run_says_what_there_is(manifest: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no budget 0.3; it has 0.5, 1"):
        load(manifest, budget=0.3)
    with pytest.raises(ArtifactError, match="1 thresholds, not 2"):
        load(manifest, thresholds=[1, 2])
    with pytest.raises(ValueError, match="x is not given"):
        load(manifest).run({"image": np.zeros((1, 4), np.float32)})
