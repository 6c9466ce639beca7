"""The example specs keep what their first lines promise."""

import json
from pathlib import Path

import pytest

from engine.__main__ import main

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.slow
def test_digits_small_is_twenty_five_times_smaller_within_a_third_of_a_point(tmp_path: Path) -> None:
    files = ["--model", EXAMPLES / "digits.onnx", "--data", EXAMPLES / "digits.npz", "--data-metadata", EXAMPLES / "digits.metadata.json"]
    assert main(["run", *map(str, [EXAMPLES / "digits_small.yaml", *files, "--out", tmp_path])]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    result = report["settings"][0]
    assert result["verdict"]["outcome"] == "constraints_met"
    assert result["figures"]["metrics"]["test.top1"] >= report["baseline"]["metrics"]["test.top1"] - 0.003
    assert (EXAMPLES / "digits.onnx").stat().st_size / (tmp_path / "model.onnx").stat().st_size >= 25
