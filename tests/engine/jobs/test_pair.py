"""A model tried on a dataset before any job: what its outputs mean, how good it is, and whether it knows anything about the examples."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine.contract.heads import Head
from engine.contract.inspection import PairInspection
from engine.contract.job import DatasetFile, ModelFile
from engine.contract.metadata import DatasetMetadata
from engine.heads.chance import Chance
from engine.jobs.pair import inspect_pair
from tests.engine.conftest import make_split
from tests.engine.metrics.test_catalogue import CLASSES, LOGITS, VALUES
from tests.engine.small import cnn_file, dataset_file, trained_cnn

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    cnn_file(folder / "cnn.onnx", trained_cnn())
    dataset_file(folder / "data.npz")
    return folder


def pair(folder: Path, work: Path, data: str = "data.npz", **metadata: object) -> PairInspection:
    dataset = DatasetFile(path=folder / data, format="npz", metadata=DatasetMetadata.model_validate(metadata))
    return inspect_pair(ModelFile(path=folder / "cnn.onnx", format="onnx"), dataset, work)


def test_a_pair_that_fits_says_how_good_it_is(folder: Path, tmp_path: Path) -> None:
    found = pair(folder, tmp_path)
    assert (found.split, found.examples_count, found.near_chance) == ("test", 200, ())
    assert set(found.metrics) == {"test.top1", "test.cross_entropy"}
    assert found.metrics["test.top1"] > 0.8
    assert [(output.task, output.target) for output in found.outputs] == [("classification", "y")]


def test_labels_in_another_order_leave_a_model_near_chance(folder: Path, tmp_path: Path) -> None:
    split = make_split(200, 2)
    shuffled = np.random.default_rng(0).permutation(split.labels)
    np.savez(folder / "shuffled.npz", x_test=split.images, y_test=shuffled)
    (sentence,) = pair(folder, tmp_path, "shuffled.npz").near_chance
    assert "output 'y' is right in" in sentence
    assert "chance is" in sentence


def test_data_that_is_scaled_away_leaves_a_model_near_chance(folder: Path, tmp_path: Path) -> None:
    assert pair(folder, tmp_path, preprocessing={"scale": 1e-4}).near_chance


def test_the_command_line_inspects_a_pair(folder: Path) -> None:
    command = [sys.executable, "-m", "engine", "inspect", str(folder / "cnn.onnx"), "--data", str(folder / "data.npz")]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    assert json.loads(done.stdout)["pair"]["outputs"][0]["class_axis"] == 1


RNG = np.random.default_rng(0)
RARE = (RNG.random(2000) < 0.05).astype(int)


@pytest.mark.parametrize(
    ("head", "outputs", "target", "knows"),
    [
        (CLASSES, np.eye(10)[RNG.integers(0, 10, 500)], RNG.integers(0, 10, 500), False),
        (CLASSES, np.eye(10)[np.zeros(500, int)], RNG.integers(0, 10, 500), False),
        (CLASSES, np.eye(10)[np.where(RNG.random(500) < 0.3, np.arange(500) % 10, RNG.integers(0, 10, 500))], np.arange(500) % 10, True),
        (LOGITS, np.full((2000, 1), -1.0), RARE, False),  # 95 % right and knows nothing
        (LOGITS, np.where(RNG.random(2000) < 0.5, 2.0 * RARE - 1, -1.0)[:, None], RARE, True),
        (VALUES, RNG.normal(size=(500, 1)), RNG.normal(size=(500, 1)), False),
        (VALUES, np.arange(500.0)[:, None] + RNG.normal(size=(500, 1)), np.arange(500.0)[:, None], True),
        (LOGITS, RNG.normal(size=(500, 4)), RNG.integers(0, 2, (500, 4)), False),
        (CLASSES, np.eye(10)[RNG.integers(0, 10, 20)], RNG.integers(0, 10, 20), True),  # too few examples to say
    ],
)
def test_chance_is_what_answers_that_do_not_look_would_reach(head: Head, outputs: np.ndarray, target: np.ndarray, knows: bool) -> None:
    found = Chance([head])
    for start in range(0, len(outputs), 64):
        places = slice(start, start + 64)
        found.add([outputs[places]], {"y": target[places]}, {})
    assert (found.sentences() == ()) is knows
