"""The engine's command line, as a person or a script runs it."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from engine.contract.events import parse_event
from engine.contract.report import read_report
from engine.reporting.text import reproduce_command
from tests.engine.small import cnn_file, dataset_file, trained_cnn

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    cnn_file(folder / "cnn.onnx", trained_cnn())
    dataset_file(folder / "data.npz")
    return folder


def engine(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "engine", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd)


def spec(folder: Path, **fields: Any) -> Path:
    path = folder / "spec.json"
    path.write_text(json.dumps({"evaluation": {"latency": {"repeats": 5}}, **fields}))
    return path


def test_a_run_leaves_artifacts_and_a_table(files: Path, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    asked = spec(tmp_path, model="whatever", dataset="ds_1", quantize="int8", constraints={"accuracy": {"max_drop": 0.1}})
    done = engine("run", asked, "--model", files / "cnn.onnx", "--data", files / "data.npz", "--out", target)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in target.iterdir()} == {"model.onnx", "report.json", "report.html", "report.md"}
    ort.InferenceSession(target / "model.onnx")
    assert "step 1/1: int8_quantization" in done.stderr
    assert "Top-1 accuracy, test" in done.stderr
    assert json.loads((target / "report.json").read_text())["sentence"] in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("when", [0.0, 0.2, 0.4, 0.7, 1.1, "in a step"])
def test_it_is_interrupted_without_a_traceback(files: Path, tmp_path: Path, when: float | str) -> None:
    """As a terminal does it: the program and all that it started hear of Ctrl-C, while libraries are loaded and later."""
    (tmp_path / "scratch").mkdir()
    training = {"method": "magnitude_pruning", "sparsity": 0.5, "finetune": {"iterations": 500_000, "batch_size": 16}}
    command = [sys.executable, "-m", "engine", "run", str(spec(tmp_path, steps=[training])), "--model", str(files / "cnn.onnx")]
    command += ["--data", str(files / "data.npz"), "--out", str(tmp_path / "out")]
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path / "scratch")},
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - a suite in the background ignores it
    ) as process:
        assert process.stderr is not None
        if isinstance(when, float):
            while "pydantic_core" not in Path(f"/proc/{process.pid}/maps").read_text():  # the first that it loads
                time.sleep(0.01)
            time.sleep(when)
        else:
            next(line for line in process.stderr if "step 1/1" in line)
        os.killpg(process.pid, signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(30) == 130
    assert "Traceback" not in said
    assert not list((tmp_path / "scratch").glob("modelpress-*"))


def test_events_can_be_read_by_a_program(files: Path, tmp_path: Path) -> None:
    done = engine("run", spec(tmp_path, quantize="int8"), "--model", files / "cnn.onnx", "--out", tmp_path / "out", "--json-events")
    events = [parse_event(line) for line in done.stdout.encode().splitlines()]
    assert events[-1].type == "done"
    assert json.loads(events[-1].result.read(tmp_path / "out"))["result"]["file_bytes"] > 0
    assert events[0].type == "phase"
    assert done.returncode == 0


def test_a_missed_constraint_has_a_status_of_its_own(files: Path, tmp_path: Path) -> None:
    asked = spec(tmp_path, quantize="int8", constraints={"max_file_bytes": 1})
    done = engine("run", asked, "--model", files / "cnn.onnx", "--out", tmp_path / "out")
    assert done.returncode == 3
    assert (tmp_path / "out" / "model.onnx").exists()
    assert "MISSED max_file_bytes" in done.stderr


def test_a_report_is_run_again_and_gives_the_same_bytes(files: Path, tmp_path: Path) -> None:
    """The command under "Reproduce" reads spec, formats and metadata from the report."""
    metadata = '{"preprocessing": {"scale": 0.5}}'
    asked = spec(tmp_path, steps=[{"method": "magnitude_pruning", "finetune": {"epochs": 1}}, {"method": "static_quantization"}], seed=7)
    first, again = tmp_path / "first", tmp_path / "again"
    done = engine("run", asked, "--model", files / "cnn.onnx", "--data", files / "data.npz", "--data-metadata", metadata, "--out", first)
    assert done.returncode == 0, done.stderr
    report = read_report((first / "report.json").read_bytes())
    program, *words = shlex.split(reproduce_command(report))
    assert program == "modelpress"
    places = {"report.json": first / "report.json", "cnn.onnx": files / "cnn.onnx", "data.npz": files / "data.npz", "out": again}
    done = engine(*(places.get(word, word) for word in words))
    assert done.returncode == 0, done.stderr
    assert "is not the file" not in done.stderr
    assert (again / "model.onnx").read_bytes() == (first / "model.onnx").read_bytes()
    other = engine(*(places.get(word, word) if word != "data.npz" else files / "cnn.onnx" for word in words))
    assert "is not the file of that job" in other.stderr


def test_a_failure_says_why(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"nonsense")
    done = engine("run", spec(tmp_path, quantize="int8"), "--model", tmp_path / "broken.onnx", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "failed (" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_spec_points_at_the_field(files: Path, tmp_path: Path) -> None:
    asked = spec(tmp_path, steps=[{"method": "structured_pruning", "pruning_ratio": 50}])
    done = engine("run", asked, "--model", files / "cnn.onnx", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "/steps/0/pruning_ratio" in done.stderr
    assert "0.5" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "missing.yaml", "--model", "x.onnx", "--out", "o"),
        ("run", "spec.json", "--model", "missing.onnx", "--out", "o"),
        ("run", "spec.json", "--model", "cnn.onnx", "--model-metadata", "{broken", "--out", "o"),
        ("run", "spec.json", "--model", "cnn.onnx", "--model-metadata", '{"arch": "lenet_5"}', "--out", "o"),
        ("inspect", "cnn.onnx", "--metadata", '{"preprocessing": {"scale": 2}}'),
        ("inspect", "data.npz", "--metadata", '{"preprocessing": {"std": 0}}'),
        ("run", "spec.json", "--model", "cnn.onnx", "--teacher", "no-equals-sign", "--out", "o"),
        ("run", "spec.json", "--model", "notes.txt", "--out", "o"),
        ("compress",),
    ],
)
def test_wrong_usage_is_one_line_and_status_two(files: Path, arguments: tuple[str, ...]) -> None:
    spec(files, quantize="int8")
    (files / "notes.txt").write_text("which format is this?")
    from engine.__main__ import main

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(files)
        with pytest.raises(SystemExit) as caught:
            main(arguments)
    assert caught.value.code == 2


def test_a_file_can_be_looked_into(files: Path) -> None:
    done = engine("inspect", files / "cnn.onnx")
    assert json.loads(done.stdout)["signature"]["inputs"][0]["name"] == "x"
    assert engine("inspect", ROOT / "pyproject.toml", "--format", "onnx").returncode == 1


def test_the_working_directory_is_not_searched_for_modules(files: Path, tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('imported from the working directory')")
    asked = spec(tmp_path, quantize="int8")
    code = "import sys; sys.path.insert(0, sys.argv[1]); from engine.__main__ import main; sys.exit(main(sys.argv[2:]))"
    command = [
        sys.executable,
        "-P",
        "-c",
        code,
        str(ROOT),
        "run",
        str(asked),
        "--model",
        str(files / "cnn.onnx"),
        "--out",
        str(tmp_path / "o"),
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
