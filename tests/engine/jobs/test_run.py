"""Whole jobs, in this process, on small real networks."""

import errno
import gzip
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from safetensors import SafetensorError
from safetensors.numpy import load_file

from engine.contract import events
from engine.contract.errors import translate
from engine.formats.onnx import export as export_module
from engine.jobs.run import run_job
from tests.engine.conftest import make_split
from tests.engine.small import cnn_file, dataset_file, save, trained_cnn, write_job

ROOT = Path(__file__).parents[3]
PIPELINE = {
    "steps": [
        {"method": "structured_pruning", "pruning_ratio": 0.5},
        {"method": "distillation", "epochs": 4, "learning_rate": 0.003},
        {"method": "static_quantization", "calibration": {"samples": 100}},
    ],
    "constraints": {"accuracy": {"metric": "top1", "max_drop": 0.1}, "max_file_bytes": 11_000},
    "evaluation": {"latency": {"batch_sizes": [1, 4], "repeats": 20}},
    "export": ["onnx", "safetensors"],
}


class Ran:
    """A finished job."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.events: list[events.Event] = []
        self.status = run_job(directory, self.events.append)

    def of(self, kind: str) -> list[Any]:
        return [event for event in self.events if event.type == kind]

    @property
    def report(self) -> dict[str, Any]:
        return json.loads((self.directory / "out" / "report.json").read_text())

    @property
    def last(self) -> Any:
        return self.events[-1]

    @property
    def result(self) -> Any:
        """What the job came to, as it stands in the file that its last event announces."""
        return json.loads(self.last.result.read(self.directory))

    def warned(self) -> set[str]:
        return {event.code for event in self.of("warning")}

    def results(self) -> list[str]:
        """Announced files that are the job's own, not one step's."""
        return [event.filename for event in self.of("artifact") if event.step_index is None]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    cnn_file(folder / "cnn.onnx", trained_cnn())
    dataset_file(folder / "data.npz")
    dataset_file(folder / "unlabelled.npz", labels=False)
    dataset_file(folder / "train_only.npz", splits=["train"])
    dataset_file(folder / "test_only.npz", splits=["test"])
    return folder


@pytest.fixture(scope="module")
def pipeline(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return Ran(write_job(tmp_path_factory.mktemp("pipeline"), PIPELINE, model=files / "cnn.onnx", dataset=files / "data.npz"))


@pytest.fixture
def ran(files: Path, tmp_path: Path) -> Callable[..., Ran]:
    def start(spec: dict[str, Any], dataset: str | None = "data.npz", model: str | Path = "cnn.onnx", **fields: Any) -> Ran:
        quick = {"evaluation": {"latency": {"repeats": 5}}, **spec}
        return Ran(write_job(tmp_path / "job", quick, model=files / model, dataset=dataset and files / dataset, **fields))

    return start


def test_the_story_is_told_in_order(pipeline: Ran) -> None:
    assert pipeline.status == 0
    assert pipeline.last.type == "done"
    phases = [event.phase for event in pipeline.of("phase")]
    assert phases[:2] == ["loading", "baseline"]
    assert phases[-3:] == ["exporting", "verifying", "measuring"]
    assert {"pruning", "training", "calibrating", "quantizing"} <= set(phases)
    assert [(event.step_index, event.method) for event in pipeline.of("step_finished")] == [
        (index, step["method"])
        for index, step in enumerate(PIPELINE["steps"])  # type: ignore[arg-type]
    ]
    fractions = [event.fraction for event in pipeline.of("progress")]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert all(event.eta_seconds is None or event.eta_seconds >= 0 for event in pipeline.of("progress"))


def test_every_artifact_is_announced_as_it_lies_there(pipeline: Ran) -> None:
    announced = {event.filename: event for event in pipeline.of("artifact")}
    assert set(announced) == {"model.onnx", "model.safetensors", "report.json"}
    assert {path.name for path in (pipeline.directory / "out").iterdir()} == set(announced)
    for name, event in announced.items():
        data = (pipeline.directory / "out" / name).read_bytes()
        assert event.size_bytes == len(data)
        assert event.sha256 == hashlib.sha256(data).hexdigest()
    assert announced["model.onnx"].kind == "model"
    assert announced["report.json"].kind == "report"


def test_the_figures_are_those_of_the_published_file(pipeline: Ran, files: Path) -> None:
    test = make_split(200, 2)
    for side, path in (("baseline", files / "cnn.onnx"), ("result", pipeline.directory / "out" / "model.onnx")):
        figures = pipeline.result[side]
        answers = ort.InferenceSession(path).run(None, {"x": test.images})[0].argmax(1)
        assert figures["metrics"]["test.top1"] == pytest.approx((answers == test.labels).mean())
        assert figures["file_bytes"] == path.stat().st_size
        assert figures["gzip_bytes"] == pytest.approx(len(gzip.compress(path.read_bytes(), 6)), abs=64)
        assert [item["batch_size"] for item in figures["latencies"]] == [1, 4]
        assert figures["latency_ms"] == figures["latencies"][0]
    baseline, result = pipeline.result["baseline"], pipeline.result["result"]
    assert baseline.keys() == result.keys()
    assert baseline["metrics"].keys() == result["metrics"].keys()
    assert result["params_count"] < 0.5 * baseline["params_count"]
    assert result["macs_count"] < 0.6 * baseline["macs_count"]
    announced = next(event for event in pipeline.of("artifact") if event.filename == "model.onnx")
    assert announced.metrics == result["metrics"]


def test_what_is_counted_is_in_the_published_file(ran: Callable[..., Ran], files: Path) -> None:
    """The uploaded file has a normalization of eight channels, which our exporter folds into the convolution before it."""
    job = ran({"steps": [{"method": "magnitude_pruning", "sparsity": 0.5}], "export": ["onnx", "safetensors"]})
    for side, path in (("baseline", files / "cnn.onnx"), ("result", job.directory / "out" / "model.onnx")):
        tensors = [numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer]
        weights = [item for item in tensors if item.dtype == np.float32]
        statistics = 2 * 8 if side == "baseline" else 0
        figures = job.result[side]
        assert figures["params_count"] == sum(item.size for item in weights) - statistics
        assert figures["nonzero_params_count"] == sum(np.count_nonzero(item) for item in weights) - statistics
    only = ran({"steps": [{"method": "magnitude_pruning", "sparsity": 0.5}], "export": ["safetensors"]})
    stored = load_file(only.directory / "out" / "model.safetensors")
    parameters = {name: value for name, value in stored.items() if "running" not in name and "num_batches" not in name}
    assert only.result["result"]["params_count"] == sum(value.size for value in parameters.values())


def test_constraints_decide_the_outcome(pipeline: Ran) -> None:
    assert pipeline.last.outcome == "constraints_met"
    assert {item["name"]: item["met"] for item in pipeline.report["constraints"]} == {"accuracy.max_drop": True, "max_file_bytes": True}


def test_steps_are_measured_one_by_one(pipeline: Ran) -> None:
    pruned, distilled, quantized = (event.metrics for event in pipeline.of("step_finished"))
    assert distilled["test.top1"] > pruned["test.top1"]
    assert quantized == {**quantized, **pipeline.result["result"]["metrics"]}
    assert pruned["params_count"] == distilled["params_count"]
    assert quantized["params_count"] == distilled["params_count"] - 2 * 4  # the normalization of four channels was folded away
    assert pipeline.report["steps"][2]["report"]["operators"]["Conv"]["int8"] == 2


def test_the_tensors_of_a_quantized_network_are_those_of_the_graph(pipeline: Ran) -> None:
    stored = load_file(pipeline.directory / "out" / "model.safetensors")
    graph = onnx.load(pipeline.directory / "out" / "model.onnx").graph
    assert set(stored) == {item.name for item in graph.initializer}
    assert all(np.array_equal(stored[item.name], numpy_helper.to_array(item)) for item in graph.initializer)
    assert any(array.dtype == np.int8 for array in stored.values())


def test_the_report_can_be_read_back(pipeline: Ran, files: Path) -> None:
    report = pipeline.report
    assert report["report_version"] == 1
    (measured,) = report["settings"]
    assert measured["setting"] == {"name": "", "values": {}}
    assert (measured["figures"], measured["verdict"]["constraints"]) == (report["result"], report["constraints"])
    assert {key: report[key] for key in ("baseline", "result", "verdict", "comparison", "settings", "judged_setting")} == pipeline.result
    assert report["inputs"]["dataset"]["sha256"] == hashlib.sha256((files / "data.npz").read_bytes()).hexdigest()
    assert report["artifacts"][0]["filename"] == "model.onnx"
    low, high = report["intervals"]["result"]["test.top1"]
    assert low < report["result"]["metrics"]["test.top1"] < high
    assert [layer["type"] for layer in report["layers"]] == ["Conv", "Conv", "Gemm"]
    assert all(layer["before"]["bits"] == 32 and layer["after"]["bits"] == 8 for layer in report["layers"])
    assert all(layer["after"]["params_count"] < layer["before"]["params_count"] for layer in report["layers"])
    assert report["spec"]["steps"][1]["temperature"] == 4.0
    assert "small_test_split" in {warning["code"] for warning in report["warnings"]}


def test_the_report_says_which_classes_were_lost_and_how_times_are_distributed(pipeline: Ran) -> None:
    report = pipeline.report
    count = report["evaluation"]["examples_count"]
    assert sum(item["examples_count"] for item in report["classes"]) == count
    for side, name in (("baseline", "right_before_count"), ("result", "right_after_count")):
        assert sum(item[name] for item in report["classes"]) == pytest.approx(count * report[side]["metrics"]["test.top1"])
        times = report[side]["latency_ms"]["quantiles"]
        assert times == sorted(times)
        assert times[4] == pytest.approx(report[side]["latency_ms"]["p50"], rel=1e-3)
    assert report["finished_at"].endswith("Z")


def test_the_same_seed_gives_the_same_bytes(pipeline: Ran, ran: Callable[..., Ran]) -> None:
    again = ran(PIPELINE)
    assert (again.directory / "out" / "model.onnx").read_bytes() == (pipeline.directory / "out" / "model.onnx").read_bytes()


def test_quantizing_an_onnx_file_never_loads_torch(files: Path, tmp_path: Path) -> None:
    write_job(tmp_path, {"quantize": "int8"}, model=files / "cnn.onnx", dataset=files / "data.npz")
    code = (
        "import sys; from pathlib import Path; from engine.jobs.run import run_job\n"
        "status = run_job(Path(sys.argv[1]), lambda event: None)\n"
        "print(status, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["0", "False"], done.stderr


def test_without_a_dataset_fidelity_is_measured_on_random_inputs_and_said_so(ran: Callable[..., Ran]) -> None:
    job = ran({"quantize": "int8"}, dataset=None)
    metrics = job.result["result"]["metrics"]
    assert set(metrics) == {"random.agreement", "random.sqnr_db", "random.cosine"}
    assert metrics["random.sqnr_db"] > 15
    assert "random_inputs" in job.warned()
    assert job.report["evaluation"]["inputs"] == "random"
    assert "random inputs" in job.report["sentence"]
    assert job.result["result"]["file_bytes"] < job.result["baseline"]["file_bytes"]


def test_without_labels_fidelity_is_measured_on_the_test_split(ran: Callable[..., Ran]) -> None:
    job = ran({"quantize": "int8"}, dataset="unlabelled.npz")
    assert set(job.result["result"]["metrics"]) == {"test.agreement", "test.sqnr_db", "test.cosine"}
    assert job.last.outcome == "no_constraints"


def test_accuracy_without_labels_is_refused_before_any_work(ran: Callable[..., Ran]) -> None:
    job = ran({"quantize": "int8", "evaluation": {"metrics": ["top1"]}}, dataset="unlabelled.npz")
    assert (job.status, job.last.type, job.last.error.code) == (1, "failed", "dataset_invalid")
    assert not job.of("step_started")


def test_a_missing_test_split_is_replaced_by_held_out_training_examples(ran: Callable[..., Ran]) -> None:
    job = ran({"steps": [{"method": "static_quantization", "calibration": {"samples": 1000}}]}, dataset="train_only.npz")
    assert "evaluation_split_replaced" in job.warned()
    assert job.report["evaluation"]["split"] == "validation"
    calibrated = job.report["steps"][0]["report"]["calibration"]
    assert calibrated["split"] == "train"
    assert calibrated["examples_count"] + job.report["evaluation"]["examples_count"] == 300


def test_test_examples_never_calibrate(ran: Callable[..., Ran]) -> None:
    job = ran({"steps": [{"method": "static_quantization"}]}, dataset="test_only.npz")
    assert (job.last.error.code, job.last.error.step_index) == ("dataset_invalid", 0)
    assert job.last.error.hint


def test_a_missed_accuracy_keeps_the_earlier_state_that_met_it(ran: Callable[..., Ran]) -> None:
    steps = [{"method": "structured_pruning", "pruning_ratio": 0.1}, {"method": "magnitude_pruning", "sparsity": 0.98}]
    job = ran({"steps": steps, "constraints": {"accuracy": {"max_drop": 0.2}}})
    first, second = (event.metrics["test.top1"] for event in job.of("step_finished"))
    baseline = job.result["baseline"]["metrics"]["test.top1"]
    assert baseline - first <= 0.2 < baseline - second
    assert job.last.outcome == "constraints_met"
    assert job.result["result"]["metrics"]["test.top1"] == pytest.approx(first, abs=0.01)
    assert "earlier_state_kept" in job.warned()
    assert job.report["kept_step_index"] == 0
    assert job.results() == ["model.onnx", "report.json"]


def test_a_target_that_the_last_step_alone_misses_keeps_the_state_before_it(ran: Callable[..., Ran]) -> None:
    """The specialists beside the network are further copies of it."""
    pruning = {"method": "structured_pruning", "pruning_ratio": 0.1, "round_to": 1}
    steps = [pruning, {"method": "specialists", "clusters": [[0, 1]], "iterations": 1}]
    neither = ran({"steps": steps, "constraints": {"max_params_count": 1}})
    first, second = (event.metrics["params_count"] for event in neither.of("step_finished"))
    assert first < second
    assert (neither.last.outcome, neither.report["kept_step_index"]) == ("constraints_not_met", 1)
    assert "earlier_state_kept" not in neither.warned()
    job = ran({"steps": steps, "constraints": {"max_params_count": int(first)}})
    assert (job.last.outcome, job.report["kept_step_index"]) == ("constraints_met", 0)
    assert "earlier_state_kept" in job.warned()


def test_a_missed_target_can_fail_the_job_and_its_files_are_kept(ran: Callable[..., Ran]) -> None:
    job = ran({"quantize": "int8", "constraints": {"max_file_bytes": 10, "on_violation": "fail"}})
    assert (job.status, job.last.type, job.last.outcome) == (0, "done", "constraints_not_met")
    assert job.last.error.code == "constraints_not_met"
    assert "max_file_bytes" in job.last.error.message
    assert job.last.error.details["constraints"][0]["met"] is False
    assert job.result["result"]["file_bytes"] > 10
    assert job.result["baseline"].keys() == job.result["result"].keys()
    assert {event.filename for event in job.of("artifact")} == {"model.onnx", "report.json"}


def test_a_missed_target_is_an_outcome_by_default(ran: Callable[..., Ran]) -> None:
    job = ran({"quantize": "int8", "constraints": {"max_file_bytes": 10}})
    assert (job.status, job.last.outcome) == (0, "constraints_not_met")
    assert "missed" in job.report["sentence"]


def test_an_export_that_says_something_else_is_never_published(ran: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    export = export_module.export_onnx

    def damaged(module: Any, signature: Any, path: Path, **how: Any) -> None:
        export(module, signature, path, **how)
        model = onnx.load(path)
        bias = next(item for item in model.graph.initializer if item.dims == [5])
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.05), bias.name))
        onnx.save(model, path)

    monkeypatch.setattr(export_module, "export_onnx", damaged)
    job = ran({"steps": [{"method": "magnitude_pruning", "sparsity": 0.1}]})
    assert (job.status, job.last.error.code) == (1, "export_mismatch")
    where = job.last.error.details["first_divergence"]
    assert where["type"] == "Linear"
    assert abs(where["max_abs_difference"] - 0.05) < 1e-3
    assert f"the first layer that differs is {where['layer']!r}" in job.last.error.message
    assert job.results() == []
    assert not (job.directory / "out" / "model.onnx").exists()


def test_weights_are_published_bit_for_bit(ran: Callable[..., Ran]) -> None:
    job = ran({"steps": [{"method": "magnitude_pruning", "sparsity": 0.5}], "export": ["safetensors"]})
    stored = load_file(job.directory / "out" / "model.safetensors")
    assert job.results() == ["model.safetensors", "report.json"]
    by_step = [event for event in job.of("artifact") if event.step_index == 0]
    assert [event.filename for event in by_step] == ["step0-sparse_weights.safetensors"]
    assert all(event.size_bytes == (job.directory / "out" / event.filename).stat().st_size for event in by_step)
    assert job.result["result"]["file_bytes"] == (job.directory / "out" / "model.safetensors").stat().st_size
    weights = np.concatenate([array.ravel() for array in stored.values() if array.ndim > 1])
    assert (weights == 0).mean() == pytest.approx(0.5, abs=0.01)
    assert "no_dense_speedup" in job.warned()


def test_another_model_teaches(ran: Callable[..., Ran], files: Path) -> None:
    cnn_file(files / "teacher.onnx", trained_cnn(5))
    teachers = {"mdl_t": {"id": "mdl_t", "path": str(files / "teacher.onnx"), "format": "onnx", "metadata": {}}}
    job = ran({"steps": [{"method": "distillation", "teacher": "mdl_t", "epochs": 1}]}, teachers=teachers)
    assert job.status == 0
    assert job.report["inputs"]["teachers"]["mdl_t"]["sha256"]


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda data: data[:1000], "truncated_upload"),
        (lambda data: b"\x80\x04" + data, "model_invalid"),
        (lambda _: b"", "truncated_upload"),
    ],
)
def test_damaged_models_fail_with_a_code(ran: Callable[..., Ran], files: Path, damage: Callable[[bytes], bytes], code: str) -> None:
    (files / "damaged.onnx").write_bytes(damage((files / "cnn.onnx").read_bytes()))
    job = ran({"quantize": "int8"}, model="damaged.onnx")
    assert (job.status, job.last.type, job.last.error.category) == (1, "failed", "user")
    assert job.last.error.code == code


def test_a_model_that_cannot_be_trained_can_be_quantized_and_says_so_when_pruned(ran: Callable[..., Ran], files: Path) -> None:
    weights = {"w": np.random.default_rng(0).standard_normal((64, 5)).astype(np.float32)}
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"], "flatten"),
        helper.make_node("NonZero", ["f"], ["places"], "places"),
        helper.make_node("Cast", ["places"], ["floating"], "cast", to=1),
        helper.make_node("ReduceMean", ["floating"], ["mean"], "mean", keepdims=0),
        helper.make_node("MatMul", ["f", "w"], ["p"], "head"),
        helper.make_node("Add", ["p", "mean"], ["y"], "sum"),
    ]
    save(files / "odd.onnx", nodes, weights, {"x": ["batch", 1, 8, 8]}, {"y": ["batch", 5]})
    assert ran({"steps": [{"method": "dynamic_quantization"}]}, model="odd.onnx").status == 0
    pruned = ran({"steps": [{"method": "magnitude_pruning"}]}, model="odd.onnx")
    assert (pruned.last.error.code, pruned.last.error.step_index) == ("unsupported_operator", 0)


def test_inspections_describe_files(files: Path, tmp_path: Path) -> None:
    model = Ran(write_job(tmp_path / "m", None, kind="inspect_model", model=files / "cnn.onnx"))
    assert model.last.type == "done"
    assert model.result["signature"]["inputs"][0]["name"] == "x"
    assert model.result["trainable"]
    dataset = Ran(write_job(tmp_path / "d", None, kind="inspect_dataset", dataset=files / "data.npz"))
    assert dataset.result["splits"]["test"]["examples_count"] == 200


def test_a_directory_without_a_job_is_our_defect(tmp_path: Path) -> None:
    job = Ran(tmp_path)
    assert (job.status, job.last.error.code, job.last.error.category) == (1, "internal_error", "internal")
    assert "Traceback" in job.of("log")[0].message


@pytest.mark.parametrize(
    ("error", "code", "category"),
    [
        (MemoryError(), "out_of_memory", "resource"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out_of_memory", "resource"),
        (OSError(errno.ENOSPC, "No space left on device"), "out_of_disk", "resource"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "out_of_disk", "resource"),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "out_of_disk", "resource"),
        (RuntimeError("write failed: Disk quota exceeded"), "out_of_disk", "resource"),
        (IndexError("index out of range in self"), "dataset_invalid", "user"),
        (IndexError("list index out of range"), "internal_error", "internal"),
        (KeyError("x"), "internal_error", "internal"),
    ],
)
def test_exceptions_become_codes(error: Exception, code: str, category: str) -> None:
    translated = translate(error)
    assert (translated.code, translated.category) == (code, category)
