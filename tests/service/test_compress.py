"""`modelpress compress` and `modelpress jobs`, the action and the recipes, as pipelines run them against a real service, and without one."""

import contextlib
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnxruntime as ort
import pytest
import yaml
from typer.testing import CliRunner

from cli.main import app
from modelpress import Client
from modelpress.client import wire
from tests.faults.house import examples, network

ROOT = Path(__file__).resolve().parents[2]
QUICK = "steps: [{method: magnitude_pruning, sparsity: 0.5}]\nevaluation: {latency: {repeats: 5}}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A network, its data, a spec that is met and one that cannot be."""
    (tmp_path / "net.onnx").write_bytes(network())
    (tmp_path / "data.npz").write_bytes(examples())
    (tmp_path / "quick.yaml").write_text(QUICK)
    (tmp_path / "missed.yaml").write_text(QUICK + "constraints: {max_file_bytes: 10}\n")
    return tmp_path


@dataclass
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def run(folder: Path, *words: str, **environment: str) -> Done:
    """One command to its end, in the folder; in this process, as starting one takes seconds."""
    kept = {key: None for key in os.environ if key.startswith(("MODELPRESS_", "GITHUB_"))}
    with contextlib.chdir(folder):
        result = CliRunner().invoke(app, words, env={**kept, **environment})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return Done(result.exit_code, result.stdout, result.stderr)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody answers, tests need not wait."""
    monkeypatch.setattr(wire, "_FIRST_PAUSE_SECONDS", 0.01)


@pytest.mark.parametrize(
    ("where", "spec", "status", "outcome"),
    [("service", "quick.yaml", 0, "no_constraints"), ("here", "missed.yaml", 3, "constraints_not_met")],
    ids=["service", "here"],
)
def test_a_network_is_compressed(service_url: str, folder: Path, where: str, spec: str, status: int, outcome: str) -> None:
    """The result and the report are there, also where a constraint is missed; GitHub is told."""
    told = {"GITHUB_STEP_SUMMARY": str(folder / "summary.md"), "GITHUB_OUTPUT": str(folder / "output")}
    server = {"MODELPRESS_URL": service_url} if where == "service" else {}
    (folder / "summary.md").write_text("What was there.\n")
    done = run(folder, "compress", "net.onnx", "--data", "data.npz", "--spec", spec, "--out", "out", **told, **server)
    assert done.returncode == status, done.stderr
    ort.InferenceSession(folder / "out" / "model.onnx")
    assert json.loads((folder / "out" / "report.json").read_text())["outcome"] == outcome
    assert (folder / "summary.md").read_text() == "What was there.\n" + (folder / "out" / "report.md").read_text() + "\n"
    outputs = dict(line.split("=", 1) for line in (folder / "output").read_text().splitlines())
    assert (outputs["outcome"], outputs["folder"], bool(outputs["job"])) == (outcome, "out", where == "service")


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (("--spec", "quick.yaml", "--int8"), 2, "either --spec"),
        (("--max-drop", "0.01"), 2, "give --data"),
        (("--data", "data.npz", "--max-drop", "80"), 2, "/constraints/accuracy/max_drop"),
        (("--data", "data.npz", "--data-metadata", "{"), 2, "not JSON"),
        (("--data", "missing.npz"), 2, "missing.npz"),
        (("--data", "data.npz", "--model-metadata", '{"architectur": 1}'), 1, "did you mean 'architecture'"),
        (("--server", "http://127.0.0.1:9"), 1, "http://127.0.0.1:9"),
    ],
)
def test_mistakes_are_said_in_a_sentence(service_url: str, folder: Path, options: tuple[str, ...], status: int, said: str) -> None:
    server = {} if "--server" in options else {"MODELPRESS_URL": service_url}
    done = run(folder, "compress", "net.onnx", "--out", "out", *options, **server)
    assert done.returncode == status, done.stderr
    assert said in " ".join(re.sub(r"[│╭╰─╮╯]", " ", done.stderr).split())
    assert not (folder / "out").exists()


def test_shorthands_are_specs() -> None:
    """What the options stand for; the options of the command line win over the file."""
    from cli.compress import Wanted

    net, data, out = Path("n.onnx"), Path("d.npz"), Path("o")
    methods = lambda **wanted: [step["method"] for step in Wanted(net, out=out, **wanted).document()["steps"]]  # noqa: E731
    assert methods(data=data) == methods(data=data, int8=True) == ["int8_quantization"]
    assert methods(data=None) == ["dynamic_quantization"]
    assert methods(data=data, prune=0.5) == ["structured_pruning", "distillation"]
    assert methods(data=data, prune=0.5, int8=True) == ["structured_pruning", "distillation", "int8_quantization"]
    assert methods(data=None, prune=0.5) == ["structured_pruning"]


def test_options_win_over_the_file(tmp_path: Path) -> None:
    from cli.compress import Wanted

    (tmp_path / "s.yaml").write_text("name: n\nsteps: []\nconstraints: {accuracy: {max_drop: 0.5, output: y}, min_speedup: 1}\n")
    wanted = Wanted(Path("n.onnx"), Path("d.npz"), Path("o"), spec=tmp_path / "s.yaml", max_drop=0.01, metric="top5")
    accuracy = {"max_drop": 0.01, "output": "y", "metric": "top5"}
    assert wanted.document() == {"name": "n", "steps": [], "constraints": {"accuracy": accuracy, "min_speedup": 1}}


def test_jobs_are_listed_shown_followed_and_fetched(service_url: str, folder: Path) -> None:
    with Client(service_url) as client:
        model, data = client.models.upload(folder / "net.onnx"), client.datasets.upload(folder / "data.npz")
        spec = {**yaml.safe_load(QUICK), "name": "listed", "model": model.id, "dataset": data.id, "labels": {"suite": "listed"}}
        job = client.jobs.create(spec)

    def ask(*words: str) -> Done:
        return run(folder, "jobs", *words, MODELPRESS_URL=service_url)

    assert ask("wait", job.id).returncode == 0
    (line,) = ask("list", "--label", "suite=listed").stdout.splitlines()
    assert line.split()[:3] == [job.id, "succeeded", "no_constraints"]
    assert json.loads(ask("list", "--label", "suite=listed", "--json").stdout)["id"] == job.id
    shown = ask("show", job.id).stdout
    assert "magnitude_pruning: succeeded" in shown
    assert "Parameters that are not zero" in shown
    assert "magnitude_pruning" in ask("logs", job.id).stdout
    assert len(ask("logs", job.id, "--tail", "1").stdout.splitlines()) == 1
    saved = ask("download", job.id, "--out", "fetched").stdout.split()
    assert {"model.onnx", "report.json", "report.html", "report.md"} <= {Path(path).name for path in saved}
    refused = ask("cancel", job.id)
    assert (refused.returncode, "job_already_terminal" in refused.stderr) == (1, True)
    assert ask("show", "job_0").returncode == 1
    assert ask("list", "--status", "done").returncode == 1


def test_interrupting_cancels_the_job(service_url: str, folder: Path) -> None:
    """Ctrl-C ends the command with 130 and without a traceback, and the service stops working for nobody."""
    (folder / "long.yaml").write_text(
        "labels: {suite: interrupted}\nsteps: [{method: magnitude_pruning, sparsity: 0.5, finetune: {iterations: 500000, batch_size: 16}}]\n"
    )
    words = ["compress", "net.onnx", "--data", "data.npz", "--spec", "long.yaml", "--out", "out", "--server", service_url]
    with (
        Client(service_url) as client,
        subprocess.Popen(
            [sys.executable, "-m", "cli.main", *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - a suite in the background ignores it
        ) as process,
    ):
        deadline = time.monotonic() + 60
        while not (found := list(client.jobs.list(label=["suite=interrupted"], status=["running"]))):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        assert (process.returncode, "Traceback" in said) == (130, False), said
        assert client.jobs.wait(found[0].id, timeout_seconds=30).status == "cancelled"


def action(**inputs: str) -> tuple[str, dict[str, str]]:
    """The script of the composite action and its environment, as a runner fills them in."""
    document = yaml.safe_load((ROOT / ".github" / "actions" / "compress" / "action.yml").read_text())
    values = {name: str(known.get("default", "")) for name, known in document["inputs"].items()} | inputs
    assert values.keys() == document["inputs"].keys()
    step = next(step for step in document["runs"]["steps"] if step.get("id") == "compress")
    assert "${{" not in step["run"], "a value within a script would be run"
    environment = {
        name: re.sub(r"\$\{\{ inputs\.([a-z0-9-]+) \}\}", lambda found: values[found[1]], text) for name, text in step["env"].items()
    }
    assert not any("${{" in text for text in environment.values())
    outputs = {
        name: re.fullmatch(r"\$\{\{ steps\.compress\.outputs\.([a-z]+) \}\}", known["value"])[1]
        for name, known in document["outputs"].items()
    }
    assert outputs == {name: name for name in ("outcome", "job", "folder")}
    return step["run"], environment


def test_the_action_gates_a_pipeline(service_url: str, folder: Path) -> None:
    """The script of the action, run as the runner runs it: 3 fails the step, and the outputs are those that it declares."""
    script, environment = action(**{"model": "net.onnx", "data": "data.npz", "spec": "missed.yaml", "server": service_url, "out": "o ut"})
    (folder / "modelpress").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m cli.main "$@"\n')
    (folder / "modelpress").chmod(0o755)
    known = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "GITHUB_OUTPUT": str(folder / "output")}
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, **environment, **known},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 3, done.stderr
    assert "outcome=constraints_not_met\n" in (folder / "output").read_text()
    assert (folder / "o ut" / "model.onnx").exists()


def plain(*given: Any, **_: Any) -> Any:
    """A decorator, with or without options, that leaves a function as it is."""
    return given[0] if given and callable(given[0]) else lambda function: function


def test_the_prefect_recipe_runs(service_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect itself is not installed: its decorators stand in for it, and everything else is real."""
    for name, module in {
        "prefect": SimpleNamespace(flow=plain, task=plain),
        "prefect.runtime": SimpleNamespace(flow_run=SimpleNamespace(id=f"run-{folder.name}")),
    }.items():
        monkeypatch.setitem(sys.modules, name, module)  # type: ignore[arg-type]
    monkeypatch.setenv("MODELPRESS_URL", service_url)
    recipe = runpy.run_path(str(ROOT / "examples" / "pipelines" / "prefect_flow.py"))
    first, again = (recipe["submit"](str(folder / "net.onnx"), str(folder / "data.npz")) for _ in range(2))
    assert first == again
    saved = recipe["compress"](str(folder / "net.onnx"), str(folder / "data.npz"), str(folder / "out"))
    assert str(folder / "out" / "model.onnx") in saved


def test_the_airflow_recipe_runs(service_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow itself is not installed: a sensor that asks until it is done, and tasks that are called, stand in for it."""
    params = {"model": str(folder / "net.onnx"), "data": str(folder / "data.npz"), "out": str(folder / "out")}
    fetched: list[Any] = []

    def task(*given: Any, **options: Any) -> Any:
        def decorate(function: Any) -> Any:
            names = function.__code__.co_varnames[: function.__code__.co_argcount]
            context = {"params": params, "run_id": f"manual-{folder.name}"}

            def call(*values: Any) -> Any:
                fetched.append(function(*values, **{name: context[name] for name in names if name in context}))
                return fetched[-1]

            return call

        return decorate(given[0]) if given else decorate

    def sensor(**options: Any) -> Any:
        def decorate(function: Any) -> Any:
            def call(*values: Any) -> Any:
                while not (found := function(*values)).is_done:
                    time.sleep(0.2)
                return found.xcom_value

            return call

        assert options["mode"] == "reschedule"
        return decorate

    task.sensor = sensor  # type: ignore[attr-defined]
    decorators, base = ModuleType("airflow.decorators"), ModuleType("airflow.sensors.base")
    decorators.dag, decorators.task = plain, task  # type: ignore[attr-defined]
    base.PokeReturnValue = SimpleNamespace  # type: ignore[attr-defined]
    for name in ("airflow", "airflow.sensors"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "airflow.decorators", decorators)
    monkeypatch.setitem(sys.modules, "airflow.sensors.base", base)
    monkeypatch.setenv("MODELPRESS_URL", service_url)
    runpy.run_path(str(ROOT / "examples" / "pipelines" / "airflow_dag.py"))
    assert str(folder / "out" / "model.onnx") in fetched[-1]
