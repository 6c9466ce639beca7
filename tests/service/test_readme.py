"""The README's examples are run as they stand, against a real service."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest
import typer

from cli.main import app

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def run(command: list[str], folder: Path) -> str:
    """Standard output of a command, with the installed programs on the path."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the examples, which commands may write into."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "build").mkdir()
    return tmp_path


def test_the_shell_example_runs_twice(service_url: str, checkout: Path) -> None:
    """The second run meets what the first one left, and downloads the model as well."""
    (code,) = blocks("bash")
    assert "http://127.0.0.1:8000" in code
    for _ in range(2):
        said = run(["bash", "-euo", "pipefail", "-c", code.replace("http://127.0.0.1:8000", service_url)], checkout)
        assert "all constraints met" in said
        ort.InferenceSession(checkout / "build" / "digits" / "model.onnx")
        assert json.loads((checkout / "build" / "digits" / "report.json").read_text())["outcome"] == "constraints_met"


def test_the_python_example_runs(service_url: str, checkout: Path) -> None:
    """It prints the outcome, and what it downloaded runs."""
    code = blocks("python")[0]
    assert "no_constraints" in run([sys.executable, "-c", code.replace("http://127.0.0.1:8000", service_url)], checkout)
    (file,) = (checkout / "build" / "smaller").glob("*.onnx")
    ort.InferenceSession(file)


def test_the_recipes_make_files_that_fit(tmp_path: Path) -> None:
    """What the export and the arrays of the README come to is a model with its normalization, and data that it takes."""
    export, store = blocks("python")[1:]
    run([sys.executable, "-c", f"{export}\n{store}\nimport json; open('metadata.json', 'w').write(json.dumps(metadata))"], tmp_path)
    found = json.loads(run(["modelpress", "inspect", "model.onnx", "--data", "data.npz", "--data-metadata", "metadata.json"], tmp_path))
    assert found["operators"]["BatchNormalization"] == 1
    assert found["trainable"]
    assert found["pair"]["outputs"][0]["task"] == "classification"


def test_commands_are_those_of_the_command_line() -> None:
    """Every command that starts with `modelpress` or `make` in README and docs is one, with options that it has."""
    texts = [TEXT, *(path.read_text() for path in (ROOT / "docs").glob("*.md"))]
    named = {found for text in texts for found in re.findall(r"(?:^\$ |`)(modelpress [a-z]+(?: [a-z]+)?|make [a-z-]+)", text, re.MULTILINE)}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {words.split()[1] for words in named if words.startswith("make ")} <= targets
    known: Any = typer.main.get_command(app)
    commands = {name: sorted(getattr(command, "commands", {})) for name, command in known.commands.items()}
    for words in sorted(words for words in named if words.startswith("modelpress ")):
        name, *more = words.split()[1:]
        assert name in commands, words
        assert not commands[name] or not more or more[0] in commands[name], words


def test_links_point_at_files() -> None:
    targets = re.findall(r"\]\((?!http)([^)#]+)", TEXT)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []
