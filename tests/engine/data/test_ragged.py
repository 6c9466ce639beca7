"""Sequences of different lengths in an npz file become one array, and lengths that do not add up are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.contract.errors import EngineError
from engine.contract.metadata import DatasetMetadata
from engine.data.loading import load_dataset, read_stored
from engine.files.magic import check_file
from engine.jobs.dataset_inspection import inspect_dataset
from engine.networks.network import Signature, TensorSpec
from tests.engine.formats.onnx.files import npz_file

LENGTHS = np.array([2, 4, 1])
VALUES = np.arange(1, 15, dtype=np.float32).reshape(7, 2)
ARRAYS: dict[str, Any] = {"x_train": VALUES, "x_train_lengths": LENGTHS, "y_train": np.arange(3)}


def load(tmp_path: Path, arrays: dict[str, Any], wanted: Signature | None = None, compressed: bool = False, **metadata: Any) -> Any:
    path = tmp_path / "data.npz"
    path.write_bytes(npz_file(arrays, compressed=compressed))
    with path.open("rb") as file:
        check_file(file, "npz")
    work = tmp_path / f"work{len(list(tmp_path.iterdir()))}"
    read = read_stored if wanted is None else load_dataset
    return read(path, "npz", DatasetMetadata.model_validate(metadata), wanted, work)


@pytest.mark.parametrize("compressed", [False, True])
def test_every_value_stands_in_its_sequence_and_the_rest_is_padding(tmp_path: Path, compressed: bool) -> None:
    stored = load(tmp_path, ARRAYS, compressed=compressed, sequences={"pad": -7})
    expected = np.full((3, 4, 2), -7, dtype=np.float32)
    for row, part in enumerate(np.split(VALUES, np.cumsum(LENGTHS)[:-1])):
        expected[row, : len(part)] = part
    np.testing.assert_array_equal(stored.splits["train"]["x"], expected)
    cut = load(tmp_path, ARRAYS, sequences={"length": 3, "longer": "cut_start"}).splits["train"]["x"]
    np.testing.assert_array_equal(cut[1], VALUES[3:6])
    np.testing.assert_array_equal(load(tmp_path, ARRAYS, sequences={"length": 3, "longer": "cut_end"}).splits["train"]["x"][1], VALUES[2:5])


def test_the_network_has_the_length_and_a_mask(tmp_path: Path) -> None:
    arrays = {"x_train.values": VALUES, "x_train_lengths.values": LENGTHS, "y_train": np.arange(7) % 3, "y_train_lengths": LENGTHS}
    inputs = (TensorSpec("values", (None, 5, 2)), TensorSpec("mask", (None, 5)))
    found = load(tmp_path, arrays, Signature(inputs, (TensorSpec("y", (None, 5, 3)),)), sequences={"mask": "mask"})
    values, targets = found.split("train").batch([0, 1, 2])
    assert values["values"].shape == (3, 5, 2)
    assert values["mask"].tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [1, 0, 0, 0, 0]]
    assert targets["y"].tolist() == [[0, 1, -100, -100, -100], [2, 0, 1, 2, -100], [0, -100, -100, -100, -100]]


def test_other_inputs_keep_their_shape_in_the_inspection(tmp_path: Path) -> None:
    arrays = {"x_train.a": VALUES, "x_train_lengths.a": LENGTHS, "x_train.b": np.zeros((3, 6))}
    (tmp_path / "a.npz").write_bytes(npz_file(arrays))
    found = inspect_dataset(tmp_path / "a.npz", "npz", DatasetMetadata(), tmp_path / "w")
    assert {column.name: column.shape for column in found.columns} == {"x.a": (None, None), "x.b": (6,)}


WRONG = {
    "lengths that do not add up": ({**ARRAYS, "x_train_lengths": LENGTHS + 1}, {}, "add up to 10, and it has 7"),
    "an empty sequence": ({**ARRAYS, "x_train_lengths": np.array([2, 5, 0])}, {}, "Sequence 2 of x_train has length 0"),
    "negative": ({**ARRAYS, "x_train_lengths": np.array([2, 6, -1])}, {}, "length -1"),
    "past all bounds": ({**ARRAYS, "x_train_lengths": np.array([2**63, 6, 1], dtype=np.uint64)}, {}, "has length"),
    "fractions": ({**ARRAYS, "x_train_lengths": LENGTHS * 1.0}, {}, "whole numbers|float64"),
    "longer than stated": (ARRAYS, {"length": 3}, "Sequence 1 of split train has 4 values, more than 3"),
    "lengths of one split": ({**ARRAYS, "x_test": VALUES}, {}, "x_test has no lengths"),
    "lengths of nothing": ({"x_train": VALUES, "x_test_lengths": LENGTHS}, {}, "no x_test"),
    "values as targets": ({**ARRAYS, "y_train": VALUES, "y_train_lengths": LENGTHS}, {}, "would count as targets"),
    "targets of all values": ({**ARRAYS, "y_train": np.arange(7)}, {}, "targets of 7 examples"),
    "a fraction as padding of integers": ({**ARRAYS, "x_train": np.arange(7)}, {"pad": 0.5}, "cannot hold"),
    "no lengths": ({"x_train": VALUES}, {"pad": 1}, "no x_train_lengths"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(tmp_path: Path, name: str) -> None:
    arrays, sequences, message = WRONG[name]
    with pytest.raises(EngineError, match=message) as caught:
        load(tmp_path, arrays, **({"sequences": sequences} if sequences else {}))
    assert caught.value.code == "dataset_invalid"
