"""What every step is given: examples to calibrate on that nobody else uses."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine.contract.errors import EngineError
from engine.contract.heads import Head
from engine.contract.metadata import DatasetMetadata
from engine.data.loading import load_dataset
from engine.measuring.examples import with_evaluation_split
from engine.methods.job_parts import Known
from engine.methods.step import StepContext
from tests.engine.conftest import signature
from tests.engine.small import dataset_file

HEAD = Head(name="y", indices=(0,), task="classification", class_axis=1, classes_count=5, target="y")


def context(folder: Path, splits: list[str], evaluated: str) -> StepContext:
    path = dataset_file(folder / "data.npz", splits=splits)
    data = with_evaluation_split(load_dataset(path, "npz", DatasetMetadata(), signature(), folder), evaluated, 0)
    network: Any = SimpleNamespace(signature=signature())
    return StepContext(
        seed=0, work=folder, emit=lambda _: None, baseline=network, data=data, evaluation_split=evaluated, known=lambda: Known((HEAD,))
    )


def rows(split: Any) -> set[bytes]:
    inputs, _ = split.batch(np.arange(split.count))
    return {row.tobytes() for row in inputs["x"]}


@pytest.mark.parametrize(
    ("splits", "evaluated", "counts"),
    [
        (["train", "validation", "test"], "test", (300, 100, 200)),
        (["train", "test"], "test", (270, 30, 200)),
        # The evaluated examples are a tenth of the training split; of the rest another tenth is calibrated on.
        (["train"], "validation", (243, 27, 30)),
        (["train", "validation"], "validation", (270, 30, 100)),
    ],
)
def test_training_calibration_and_evaluation_have_no_example_in_common(
    tmp_path: Path, splits: list[str], evaluated: str, counts: tuple[int, int, int]
) -> None:
    step = context(tmp_path, splits, evaluated)
    assert step.data is not None
    parts = [rows(split) for split in (*step.held_out_from_evaluation(), step.data.splits[evaluated])]
    assert tuple(map(len, parts)) == counts
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]


def test_one_training_example_leaves_none_to_calibrate_on(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "one.npz",
        x_train=np.zeros((1, 1, 8, 8), np.float32),
        y_train=[0],
        x_test=np.zeros((2, 1, 8, 8), np.float32),
        y_test=[0, 1],
    )
    data = load_dataset(tmp_path / "one.npz", "npz", DatasetMetadata(), signature(), tmp_path)
    network: Any = SimpleNamespace(signature=signature())
    step = StepContext(seed=0, work=tmp_path, emit=lambda _: None, baseline=network, data=data, known=lambda: Known((HEAD,)))
    with pytest.raises(EngineError) as caught:
        step.held_out_from_evaluation()
    assert caught.value.code == "no_validation_examples"
    assert "more training examples" in str(caught.value.hint)


def test_a_file_is_published_under_the_number_of_its_step(tmp_path: Path) -> None:
    step = context(tmp_path, ["train", "test"], "test")
    assert step.published_name(tmp_path / "stage1.onnx") == "stage1.onnx"
    assert step.for_step(2, (0.0, 1.0)).published_name(tmp_path / "stage1.onnx") == "step2-stage1.onnx"
