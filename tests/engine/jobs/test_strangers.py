"""Whole jobs on networks as strangers upload them: constants as outputs, answers beside scores, states by row, and what rounding costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from engine.contract import events
from engine.contract.errors import EngineError
from engine.contract.job import Job
from engine.formats.onnx.importer import rebuild
from engine.jobs.comparison import check_import, difference
from engine.jobs.inputs import JobInputs
from engine.jobs.run import run_job
from tests.engine.small import save, write_job

QUICK = {"latency": {"repeats": 5}}
NOTHING = {"method": "train", "iterations": 0}
"""Imports and exports, and changes nothing."""
RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)


def two_layers(path: Path, *more: onnx.NodeProto, outputs: dict[str, Any], weights: dict[str, np.ndarray] | None = None) -> Path:
    """x (12) → a hidden layer (16) → scores (7), and further nodes."""
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["scores"]),
    ]
    return save(path, [*nodes, *more], {"w1": normal(12, 16), "w2": normal(16, 7), **(weights or {})}, {"x": ["n", 12]}, outputs)


def data(path: Path, shape: tuple[int, ...] = (12,)) -> Path:
    labels = {"y_train": RNG.integers(0, 7, 64), "y_test": RNG.integers(0, 7, 40)}
    np.savez(path, x_train=normal(64, *shape), x_test=normal(40, *shape), **labels)  # type: ignore[arg-type]
    return path


def ran(folder: Path, model: Path, dataset: Path, *steps: dict[str, Any], **spec: Any) -> tuple[list[Any], dict[str, Any]]:
    """Events of a job, and its report where it was done."""
    directory = write_job(folder / "job", {"steps": list(steps), "evaluation": QUICK, **spec}, model=model, dataset=dataset)
    seen: list[events.Event] = []
    status = run_job(directory, seen.append)
    return seen, json.loads((directory / "out" / "report.json").read_text()) if status == 0 else {}


def test_weights_and_constants_may_be_outputs(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.arange(7, dtype=np.float32)))
    shown = helper.make_node("Identity", ["w1"], ["weight"])
    path = two_layers(tmp_path / "m.onnx", constant, shown, outputs={"scores": ["n", 7], "k": [7], "weight": [12, 16]})
    _, report = ran(tmp_path, path, data(tmp_path / "d.npz"), NOTHING)
    assert report["result"]["metrics"]["test.sqnr_db"] > 100


def test_an_answer_beside_the_scores_is_not_distilled(tmp_path: Path) -> None:
    answer = helper.make_node("ArgMax", ["scores"], ["answer"], axis=1, keepdims=0)
    outputs = {"answer": (TensorProto.INT64, ["n"]), "scores": ["n", 7]}
    path = two_layers(tmp_path / "m.onnx", answer, outputs=outputs)
    step = {"method": "distillation", "iterations": 2, "alpha": 1.0}
    _, report = ran(tmp_path, path, data(tmp_path / "d.npz"), step)
    assert report["result"]["metrics"]["test.cosine"] > 0.9
    only = two_layers(tmp_path / "only.onnx", answer, outputs={"answer": outputs["answer"]})
    seen, _ = ran(tmp_path / "only", only, tmp_path / "d.npz", step)
    assert seen[-1].error.code == "not_trainable"
    assert "scores" in seen[-1].error.hint


@pytest.mark.parametrize("alike", [True, False])
def test_a_state_that_differs_between_examples_is_not_taken_for_one_that_does_not(tmp_path: Path, alike: bool) -> None:
    """Batch 4 is fixed; the first row stands for all of them only where they are equal."""
    state = np.repeat(normal(1, 1, 5), 4, axis=1) if alike else normal(1, 4, 5)
    weights = {"w": normal(1, 5, 3), "r": normal(1, 5, 5), "s": state, "v": normal(5, 7)}
    nodes = [
        helper.make_node("Transpose", ["x"], ["xt"], perm=[1, 0, 2]),
        helper.make_node("RNN", ["xt", "w", "r", "", "", "s"], ["", "h"], "layer", hidden_size=5),
        helper.make_node("Reshape", ["h", "to"], ["flat"]),
        helper.make_node("MatMul", ["flat", "v"], ["y"]),
    ]
    path = save(tmp_path / "m.onnx", nodes, weights | {"to": np.array([4, 5])}, {"x": [4, 6, 3]}, {"y": [4, 7]})
    seen, report = ran(tmp_path, path, data(tmp_path / "d.npz", (6, 3)), NOTHING)
    if alike:
        assert report["result"]["metrics"]["test.sqnr_db"] > 100
    else:
        assert seen[-1].error.code == "unsupported_operator"
        assert "differs between the examples" in seen[-1].error.message


@pytest.fixture
def inputs(tmp_path: Path) -> JobInputs:
    path = two_layers(tmp_path / "m.onnx", outputs={"scores": ["n", 7]})
    spec = {"steps": [NOTHING], "evaluation": QUICK}
    job = Job.read(write_job(tmp_path / "job", spec, model=path, dataset=data(tmp_path / "d.npz")))
    assert job.spec is not None
    return JobInputs.load(job, job.spec, tmp_path, lambda _: None)


def test_a_module_that_computes_something_else_than_its_file_is_refused(inputs: JobInputs) -> None:
    check_import(inputs)
    with torch.no_grad():
        next(inputs.baseline.module.parameters()).mul_(1.05)
    with pytest.raises(EngineError) as caught:
        check_import(inputs)
    assert (caught.value.code, caught.value.details["output"]) == ("import_mismatch", "scores")
    assert caught.value.details["error"] == pytest.approx(0.05**2, rel=1e-3)


def test_a_step_does_not_go_on_with_such_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An importer that takes a Relu for something else."""
    monkeypatch.setitem(rebuild.OPERATORS, "Relu", lambda op, build: build.call(torch.tanh, op.value(0)))  # type: ignore[attr-defined]
    path = two_layers(tmp_path / "m.onnx", outputs={"scores": ["n", 7]})
    seen, _ = ran(tmp_path, path, data(tmp_path / "d.npz"), NOTHING)
    assert seen[-1].error.code == "import_mismatch"


def test_differences_are_shares_of_the_size() -> None:
    want = np.array([3.0, 4.0, np.inf, np.nan], np.float32)
    assert difference(want, want) == 0
    assert difference(want, want + np.array([0, 0.5, 0, 0], np.float32)) == pytest.approx(0.25 / 25)
    assert difference(want, np.array([3.0, 4.0, 5.0, np.nan], np.float32)) == float("inf")
    assert difference(want, want[:3]) is None
    assert difference(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])) == 0.25**2


def test_an_error_of_the_uploaded_network_is_none_of_the_step_that_waited_for_it(tmp_path: Path) -> None:
    log = helper.make_node("Log", ["scores"], ["y"])
    path = two_layers(tmp_path / "m.onnx", log, outputs={"y": ["n", 7]})
    seen, _ = ran(tmp_path, path, data(tmp_path / "d.npz"), {"method": "dynamic_quantization"})
    assert (seen[-1].error.code, seen[-1].error.step_index) == ("non_finite_outputs", None)


def test_rounding_that_costs_more_than_a_point_is_told(tmp_path: Path) -> None:
    """One feature is huge and means nothing: eight bits for all of them leave none to the others."""
    weights = {"w": normal(16, 64), "v": normal(64, 4)}
    weights["w"][0] = 0
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "v"], ["y"], "second"),
    ]
    path = save(tmp_path / "m.onnx", nodes, weights, {"x": ["n", 16]}, {"y": ["n", 4]})
    features = {name: normal(count, 16) for name, count in (("x_train", 64), ("x_test", 200))}
    for values in features.values():
        values[:, 0] *= 1e4
    np.savez(tmp_path / "d.npz", **features)  # type: ignore[arg-type]
    step = {"method": "static_quantization"}
    seen, report = ran(tmp_path, path, tmp_path / "d.npz", step)
    (told,) = [event for event in seen if isinstance(event, events.Warned) and event.code == "quantized_too_far"]
    assert told.details["metrics"] == {"test.agreement": report["result"]["metrics"]["test.agreement"]}
    assert report["result"]["metrics"]["test.agreement"] < 0.99
    assert "int8_quantization" in told.message
    seen, _ = ran(tmp_path / "near", path, tmp_path / "d.npz", {**step, "ignore": ["first"]})
    assert "quantized_too_far" not in {event.code for event in seen if isinstance(event, events.Warned)}
    limit = {"accuracy": {"metric": "agreement", "min": 0.01}}
    seen, _ = ran(tmp_path / "judged", path, tmp_path / "d.npz", step, constraints=limit)
    assert "quantized_too_far" not in {event.code for event in seen if isinstance(event, events.Warned)}


def test_a_file_that_grew_is_told(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    small = save(tmp_path / "m.onnx", nodes, {"w": normal(4, 3)}, {"x": ["n", 4]}, {"y": ["n", 3]})
    np.savez(tmp_path / "d.npz", x_train=normal(64, 4), x_test=normal(40, 4))
    seen, report = ran(tmp_path, small, tmp_path / "d.npz", {"method": "static_quantization"})
    assert report["result"]["file_bytes"] > report["baseline"]["file_bytes"]
    assert "file_larger" in {event.code for event in seen if isinstance(event, events.Warned)}


@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_hidden_units_are_cut_behind_a_state_that_is_made_for_the_batch(tmp_path: Path, kind: str, gates: int) -> None:
    """As torch exports a recurrent layer with an open batch. Every other unit is silent: its rows are zero in all gates."""
    weights = {"w": normal(1, gates * 8, 4), "r": normal(1, gates * 8, 8), "b": normal(1, 2 * gates * 8), "v": normal(8, 7)}
    for name in "wrb":
        weights[name].reshape(-1, 8, weights[name].shape[-1] if name != "b" else 1)[:, 1::2] = 0
    weights |= {"first": np.array(0), "axis": np.array([0]), "one": np.array([1]), "width": np.array([8])}
    nodes = [
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "first"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axis"], ["batch"]),
        helper.make_node("Concat", ["one", "batch", "width"], ["state_sizes"], axis=0),
        helper.make_node("ConstantOfShape", ["state_sizes"], ["state"]),
        helper.make_node("Transpose", ["x"], ["xt"], perm=[1, 0, 2]),
        helper.make_node(
            kind,
            ["xt", "w", "r", "b", "", "state", *(["state"] if kind == "LSTM" else [])],
            ["", "h"],
            "layer",
            hidden_size=8,
            **({"linear_before_reset": 1} if kind == "GRU" else {}),
        ),
        helper.make_node("Squeeze", ["h", "axis"], ["last"]),
        helper.make_node("MatMul", ["last", "v"], ["y"], "head"),
    ]
    path = save(tmp_path / "m.onnx", nodes, weights, {"x": ["n", 5, 4]}, {"y": ["n", 7]})
    step = {"method": "structured_pruning", "pruning_ratio": 0.5, "round_to": 1, "include": [kind]}
    _, report = ran(tmp_path, path, data(tmp_path / "d.npz", (5, 4)), step)
    found = report["steps"][0]["report"]
    assert (8, 4) in {(row["channels_before"], row["channels_after"]) for row in found["layers"].values()}
    assert found["before"]["macs_count"] == 5 * gates * 8 * (4 + 8) + 56 == report["baseline"]["macs_count"]
    assert found["after"]["macs_count"] == 5 * gates * 4 * (4 + 4) + 28
    assert report["result"]["metrics"]["test.sqnr_db"] > 100
