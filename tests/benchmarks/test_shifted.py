"""What is scored on digits of another source: padded, shrunk, and every setting by its own file."""

import json
from pathlib import Path

import numpy as np
from onnx import helper

from benchmarks import shifted
from benchmarks.claims.bench import Outcome
from tests.engine.small import save


def test_small_digits_stand_in_the_middle(tmp_path: Path) -> None:
    images = np.full((3, 20, 20), 255, np.uint8)
    np.savez(tmp_path / "digits.npz", x_test=images, y_test=np.arange(3))
    found, labels = shifted.digits(tmp_path / "digits.npz", 14)
    assert found.shape == (3, 1, 14, 14)
    assert found.dtype == np.dtype(np.float32)
    assert labels.tolist() == [0, 1, 2]
    assert found[0, 0, 2:12, 2:12].min() == 1
    assert found.sum() == 3 * 100


def test_every_setting_is_scored_by_its_own_file(tmp_path: Path) -> None:
    for name, places in (("up", [0, 1]), ("down", [1, 0])):
        nodes = [helper.make_node("Gather", ["x", "places"], ["y"], axis=1)]
        save(tmp_path / f"{name}.onnx", nodes, {"places": np.array(places)}, {"x": ["n", 2]}, {"y": ["n", 2]})
    settings = [{"setting": {"name": name}, "figures": {"macs_count": macs}} for name, macs in (("up", 10), ("down", 5))]
    files = [{"filename": "up.onnx", "settings": ["up"]}, {"filename": "report.md"}, {"filename": "down.onnx", "settings": ["down"]}]
    report = {"settings": settings, "artifacts": files, "baseline": {"macs_count": 10}, "steps": [{"method": "slimmable"}]}
    given = np.array([[1, 0], [1, 0], [0, 1]], np.float32), np.array([0, 0, 0])
    rows = shifted.measured(Outcome(json.loads(json.dumps(report)), tmp_path), {"test": given})
    assert [(row["setting"], row["compute"], round(row["test percent"], 1)) for row in rows] == [("up", 1, 66.7), ("down", 0.5, 33.3)]
