"""The pair that is timed in an environment of its own."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from onnx import helper

from benchmarks.alone import __main__ as program
from benchmarks.alone import paired
from benchmarks.claims.bench import Outcome
from tests.engine.small import save
from tests.modelpress.alone import run_alone


def chain(path: Path, length: int) -> Path:
    """So many multiplications of a row by one matrix."""
    names = ["x", *(f"h{number}" for number in range(1, length)), "y"]
    nodes = [helper.make_node("MatMul", [names[place], "w"], [names[place + 1]]) for place in range(length)]
    return save(path, nodes, {"w": np.eye(256, dtype=np.float32)}, {"x": ["n", 256]}, {"y": ["n", 256]})


def test_a_part_takes_its_share_of_the_whole(tmp_path: Path) -> None:
    files = chain(tmp_path / "part.onnx", 10), chain(tmp_path / "whole.onnx", 100)
    np.save(tmp_path / "inputs.npy", np.ones((20, 256), np.float32))
    code = Path(paired.__file__).read_text().replace('"modelpress", ', "")  # `run_alone` has it
    found = json.loads(run_alone(code, tmp_path, *files, tmp_path / "inputs.npy", 3))
    assert 0 < found["ratio"] < 0.6
    assert len(found["ratio_of_rounds"]) == 3
    assert found["part_ms"]["p10"] <= found["part_ms"]["p50"] <= found["part_ms"]["p90"]


def test_an_environment_with_more_than_that_is_refused() -> None:
    done = subprocess.run([sys.executable, paired.__file__, "a", "b", "c", "1"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "torch" in done.stderr


def test_files_of_the_first_and_the_last_setting_are_compared(tmp_path: Path) -> None:
    settings = [{"setting": {"name": name}} for name in ("budget 0.3", "exit 1", "exit 2")]
    written = [
        {"filename": "model.onnx", "settings": ["budget 0.3"]},
        {"filename": "stages.json"},
        {"filename": "last.onnx", "settings": ["exit 2"]},
    ]
    done = Outcome({"settings": settings, "artifacts": written}, tmp_path)
    assert program.files(done) == (tmp_path / "model.onnx", tmp_path / "last.onnx")
