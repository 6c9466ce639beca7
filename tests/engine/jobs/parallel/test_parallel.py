"""A job in two real processes, connected by gloo, comes to what one process comes to."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import helper
from safetensors.torch import load_file
from torch.testing import assert_close

from engine.__main__ import main
from engine.contract.events import Checkpointed, Event, Failed, Resumed
from engine.contract.spec import parse
from engine.jobs.run import run_job
from tests.engine.small import cnn_file, dataset_file, write_job
from tests.processes import descendants

TRAINING = {"optimizer": "sgd", "learning_rate": 0.02, "schedule": "constant"}
SPEC: dict[str, Any] = {
    "steps": [
        {
            "method": "train",
            "epochs": 1,
            "batch_size": 37,
            "gradient_clip_norm": 1.0,
            "ema_decay": 0.9,
            **TRAINING,
        },  # the last batch has four examples
        {"method": "structured_pruning", "pruning_ratio": 0.4, "finetune": {"iterations": 3, "batch_size": 32, **TRAINING}},
        {"method": "distillation", "teacher": "baseline", "epochs": 1, "batch_size": 299, **TRAINING},  # the last one has one
        {
            "method": "train",
            "iterations": 3,
            "batch_size": 37,
            "augment": {"flip": "both", "shift": 1, "cutout": 0.4, "mixup": 0.5},
            **TRAINING,
        },
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


def run(directory: Path, emit: Callable[[Event], None] = lambda _: None, **job: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights and report of a job."""
    failures: list[Event] = []

    def listen(event: Event) -> None:
        if isinstance(event, Failed):
            failures.append(event)
        emit(event)

    assert run_job(write_job(directory, **job), listen) == 0, failures
    return load_file(directory / "out" / "model.safetensors"), json.loads((directory / "out" / "report.json").read_text())


GPUS = (
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason=f"needs two GPUs, and {torch.cuda.device_count()} are here"),
)


@pytest.mark.slow
@pytest.mark.parametrize(("device", "tolerance"), [("cpu", 1e-5), pytest.param("cuda:0", 1e-4, marks=GPUS)])
def test_two_processes_come_to_what_one_comes_to_also_from_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, tolerance: float
) -> None:
    """Batch statistics, dropout, gradients and decisions are those of the whole batch.

    Sums over a batch are added up in another order: on CPUs the weights were seen to differ by 6e-7. Statistics of half a batch, dropout
    drawn for each half, or halves that count alike whatever their size differ by 0.08 and more.
    """
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    files = {"model": with_dropout(tmp_path / "cnn.onnx"), "dataset": dataset_file(tmp_path / "data.npz"), "device": device}
    weights, report = run(tmp_path / "one", spec=SPEC, **files)
    kept: list[Path] = []

    def keep(event: Event) -> None:
        if isinstance(event, Checkpointed):
            kept.append(tmp_path / f"checkpoint{len(kept)}")
            shutil.copy(tmp_path / "two" / event.path, kept[-1])

    two_devices = {**SPEC, "devices": 2}
    divided_weights, divided_report = run(tmp_path / "two", keep, spec=two_devices, checkpoint_seconds=0, **files)
    assert_close(divided_weights, weights, rtol=0, atol=tolerance)
    for one, two in zip(report["steps"], divided_report["steps"], strict=True):
        assert two["metrics"] == pytest.approx(one["metrics"], abs=10 * tolerance, rel=10 * tolerance)
        losses = [[record["train.loss"] for record in each["report"].get("training", [])] for each in (one, two)]
        assert losses[1] == pytest.approx(losses[0], abs=tolerance)
    resumed: list[Event] = []
    again, _ = run(tmp_path / "three", resumed.append, spec=two_devices, resume=str(kept[len(kept) // 2]), **files)
    assert any(isinstance(event, Resumed) and event.trainings_done for event in resumed)
    assert_close(again, divided_weights, rtol=0, atol=0 if device == "cpu" else tolerance)


ROUNDED: list[dict[str, Any]] = [
    {"method": "quantization_aware_training", "epochs": 2, "batch_size": 37, "step_size": "learned", **TRAINING},
    {"method": "binary_connect", "epochs": 2, "batch_size": 37, "binarization": "stochastic", "inference": "real", **TRAINING},
    {"method": "ternary", "epochs": 2, "batch_size": 37, **TRAINING},
    {"method": "codebook", "epochs": 2, "batch_size": 37, **TRAINING},
]


WIDTHS = {"method": "slimmable", "widths": [0.5, 1.0], "epochs": 2, "batch_size": 37, **TRAINING}
IN_TURN = {str(step["method"]): step for step in (*ROUNDED, WIDTHS)}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every step of `IN_TURN` as a job of one process and as one of two, which work on those jobs one after the other."""
    folder = tmp_path_factory.mktemp("pairs")
    files = {
        "model": cnn_file(folder / "cnn.onnx"),
        "dataset": dataset_file(folder / "data.npz", splits=("train", "validation", "test")),
    }
    spec = {**SPEC, "export": ["onnx"]}
    for name, step in IN_TURN.items():
        assert run_job(write_job(folder / name / "one", spec={**spec, "steps": [step]}, **files), lambda _: None) == 0
    divided = [write_job(folder / name / "two", spec={**spec, "steps": [step], "devices": 2}, **files) for name, step in IN_TURN.items()]
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(Path(__file__).with_name("in_turn.py"))]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[4])}
    done = subprocess.run(
        [sys.executable, *command, *map(str, divided)], capture_output=True, text=True, check=False, env=environment, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return folder


def reports(folder: Path) -> Iterator[dict[str, Any]]:
    """What the job of one process and that of two came to."""
    for name in ("one", "two"):
        yield json.loads((folder / name / "out" / "report.json").read_text())


def losses(report: dict[str, Any]) -> list[float]:
    """Of the epochs of the only step."""
    return [record["train.loss"] for record in report["steps"][0]["report"]["training"]]


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("method", [str(step["method"]) for step in ROUNDED])
def test_trainings_under_rounding_are_divided_too(pairs: Path, method: str) -> None:
    """Each draws the same binary weights, and normalizes by the statistics of the whole batch."""
    one, two = reports(pairs / method)
    assert losses(two)[0] == pytest.approx(losses(one)[0], rel=1e-3)
    # Sums in another order move a value across the border of two steps now and then, which later epochs build on.
    assert losses(two) == pytest.approx(losses(one), rel=1e-2)
    assert two["result"]["metrics"]["test.top1"] == pytest.approx(one["result"]["metrics"]["test.top1"], abs=0.02)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_widths_that_are_trained_together_are_divided_too(pairs: Path) -> None:
    """Every width has the gradient and the statistics of the whole batch."""
    one, two = reports(pairs / "slimmable")
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    metrics = [[setting["figures"]["metrics"]["test.cross_entropy"] for setting in report["settings"]] for report in (one, two)]
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-3)


def without_the_bias_before_the_norm(path: Path) -> Path:
    """The CNN as exporters write one whose convolution has no bias, because a normalization follows."""
    model = onnx.load(cnn_file(path))
    del model.graph.node[0].input[2]
    model.graph.initializer.remove(next(each for each in model.graph.initializer if each.name == "0.bias"))
    onnx.save(model, path)
    return path


@pytest.mark.slow
def test_the_command_line_trains_in_two_processes_and_adamw_comes_to_the_same(tmp_path: Path) -> None:
    """What follows from a gradient is the same for every parameter that has one.

    A bias right before batch normalization has none: it is subtracted again with the mean. Adam (Kingma, Ba, 2015) divides the rounding
    error, 1e-9, that is computed in its place by its own size, and walks by up to the learning rate a step, in one process as in two;
    the running mean follows it, and nothing else does. So the network is one without that bias; with it, it was seen to differ by 0.02,
    and all other weights by 3e-6.
    """
    training = {"optimizer": "adamw", "learning_rate": 0.003, "weight_decay": 0.1}
    spec = {**SPEC, "steps": [{"method": "train", "epochs": 2, "batch_size": 37, **training}]}
    files = {"model": without_the_bias_before_the_norm(tmp_path / "cnn.onnx"), "dataset": dataset_file(tmp_path / "data.npz")}
    weights, report = run(tmp_path / "one", spec=spec, **files)
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    arguments = ["run", tmp_path / "spec.json", "--model", files["model"], "--data", files["dataset"], "--out", tmp_path / "out"]
    command = [sys.executable, "-m", "engine", *map(str, arguments), "--devices", "2", "--json-events"]
    ranks: set[bytes] = set()  # by number: what such a process has just forked looks like itself
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            for pid in descendants(process.pid):
                with suppress(OSError):
                    is_rank = b"engine.jobs.parallel.rank" in Path(f"/proc/{pid}/cmdline").read_bytes()
                    surroundings = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if is_rank else []
                    ranks |= {item for item in surroundings if item.startswith(b"RANK=")}
    assert process.returncode == 0
    assert json.loads(lines[-1])["type"] == "done"
    assert ranks == {b"RANK=0", b"RANK=1"}
    divided_weights = load_file(tmp_path / "out" / "model.safetensors")
    assert_close(divided_weights, weights, rtol=0, atol=1e-5)
    divided_report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert divided_report["result"]["metrics"] == pytest.approx(report["result"]["metrics"], abs=1e-4, rel=1e-4)


def test_the_number_of_devices_is_checked_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(SPEC))
    arguments = ["run", tmp_path / "spec.json", "--model", cnn_file(tmp_path / "cnn.onnx"), "--data", dataset_file(tmp_path / "data.npz")]
    assert main([str(item) for item in (*arguments, "--out", tmp_path / "out", "--devices", "17")]) == 2
    assert "/devices" in capsys.readouterr().err


def test_a_job_without_a_training_needs_one_process_only() -> None:
    quantized = {"model": "mdl_a", "steps": [{"method": "dynamic_quantization"}], "devices": 2}
    trained = {"model": "mdl_a", "dataset": "ds_a", "steps": [{"method": "train", "epochs": 1}]}
    for document, processes in ((quantized, 1), (trained, 1), ({**trained, "devices": 2}, 2)):
        spec, problems = parse(document)
        assert spec is not None, problems
        assert spec.processes == processes
