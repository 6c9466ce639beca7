"""Tables reach the network as numbers, and what is wrong with them is named by row and column."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.contract.errors import EngineError
from engine.contract.metadata import DatasetMetadata
from engine.data.loading import load_dataset, read_stored
from engine.files.csv import recognizes
from engine.files.magic import check_file, sniff
from engine.networks.network import Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", (None, 2)),), (TensorSpec("y", (None, 3)),))
TABLE = b'a,b,label,split\n1,2.5,cat,train\n3,"4",dog,train\n5e-1,-6,cat,test\n\n7,8,"owl",val\n'


def load(tmp_path: Path, data: bytes, **metadata: Any) -> Any:
    path = tmp_path / "table.csv"
    path.write_bytes(data)
    with path.open("rb") as file:
        check_file(file, "csv")
    work = tmp_path / f"work{len(list(tmp_path.iterdir()))}"
    return read_stored(path, "csv", DatasetMetadata.model_validate(metadata), SIGNATURE, work)


def test_features_targets_splits_and_classes(tmp_path: Path) -> None:
    stored = load(tmp_path, TABLE)
    assert stored.classes == ("cat", "dog", "owl")
    assert {name: columns["x"].tolist() for name, columns in stored.splits.items()} == {
        "train": [[1, 2.5], [3, 4]],
        "validation": [[7, 8]],
        "test": [[0.5, -6]],
    }
    assert {name: columns["y"].tolist() for name, columns in stored.splits.items()} == {"train": [0, 1], "validation": [2], "test": [0]}
    assert isinstance(stored.splits["train"]["x"], np.memmap)
    data = load_dataset(tmp_path / "table.csv", "csv", DatasetMetadata(), SIGNATURE, tmp_path / "again")
    assert data.split("test").batch([0])[0]["x"].tolist() == [[0.5, -6]]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_other_delimiters_and_a_byte_order_mark(tmp_path: Path, delimiter: str) -> None:
    data = b"\xef\xbb\xbf" + TABLE.replace(b",", delimiter.encode())
    assert sniff(data[:4096], None) == "csv"
    assert load(tmp_path, data).splits["train"]["x"].tolist() == [[1, 2.5], [3, 4]]


def test_a_header_with_delimiters_in_its_names_and_empty_lines_before_it(tmp_path: Path) -> None:
    data = b'\n  \n"length, dry, cm";"width, cm";label\n1;2.5;cat\n3;4;dog\n'
    assert sniff(data, None) == "csv"
    stored = load(tmp_path, data)
    assert (stored.splits["train"]["x"].tolist(), stored.classes) == ([[1, 2.5], [3, 4]], ("cat", "dog"))


def test_columns_as_they_are_stated(tmp_path: Path) -> None:
    stated = {"features": ["c", "a"], "targets": ["b"], "test_share": 0.5}
    rows = "".join(f"{i},{i / 2},{-i}\n" for i in range(400))
    stored = load(tmp_path, f"a,b,c\n{rows}".encode(), table=stated)
    train, test = stored.splits["train"], stored.splits["test"]
    assert (train["x"][:, 0] == -train["x"][:, 1]).all()
    np.testing.assert_array_equal(train["y"], train["x"][:, 1] / 2)
    assert train["y"].dtype == np.float32
    assert len(train["x"]) + len(test["x"]) == 400
    assert 150 < len(test["x"]) < 250
    again = load(tmp_path, f"a,b,c\n{rows}".encode(), table=stated)
    assert np.array_equal(again.splits["test"]["x"], test["x"])


@pytest.mark.parametrize(("base", "kind"), [(0, "float32"), (1.7e9, "float64")])
def test_targets_keep_what_tells_them_apart(tmp_path: Path, base: float, kind: str) -> None:
    values = [base + i / 4 for i in range(200)]
    rows = "".join(f"{i},{value!r}\n" for i, value in enumerate(values))
    stored = load(tmp_path, f"a,b\n{rows}".encode(), table={"targets": ["b"], "test_share": 0.5})
    assert {part["y"].dtype for part in stored.splits.values()} == {np.dtype(kind)}
    assert sorted(np.concatenate([part["y"] for part in stored.splits.values()]).tolist()) == values


def test_standardization_is_fitted_on_the_training_rows_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(5, 3, (9000, 2)).astype(np.float32)
    values[:, 1] = 4
    splits = rng.choice(["train", "test"], 9000)
    rows = "".join(f"{a!r},{b!r},{split}\n" for (a, b), split in zip(values.tolist(), splits, strict=True))
    stored = load(tmp_path, f"a,b,split\n{rows}".encode(), table={"standardize": "train"})
    train = values[splits == "train"].astype(np.float64)
    expected = (values[splits == "test"] - train.mean(0)) / np.where(train.std(0) > 0, train.std(0), 1)
    np.testing.assert_allclose(stored.splits["test"]["x"], expected, atol=1e-5)
    assert (stored.splits["train"]["x"][:, 1] == 0).all()


def test_a_column_too_many_is_said_to_be_one(tmp_path: Path) -> None:
    load(tmp_path, b"a,b,Target\n1,2,0\n")
    with pytest.raises(EngineError) as caught:
        load_dataset(tmp_path / "table.csv", "csv", DatasetMetadata(), SIGNATURE, tmp_path / "again")
    assert caught.value.code == "shape_mismatch"
    assert "metadata.table.features" in (caught.value.hint or "")


def test_several_targets_are_a_matrix_and_whole_numbers_are_classes(tmp_path: Path) -> None:
    stored = load(tmp_path, b"a,u,v\n1,0,1\n2,1,1\n", table={"targets": ["v", "u"]})
    assert stored.splits["train"]["y"].tolist() == [[1, 0], [1, 1]]
    assert load(tmp_path, b"a,b,y\n1,2,0\n3,4,2\n").splits["train"]["y"].dtype == np.int64


def test_classes_are_numbered_as_the_metadata_say(tmp_path: Path) -> None:
    stored = load(tmp_path, TABLE, labels=["owl", "dog", "cat"])
    assert stored.splits["train"]["y"].tolist() == [2, 1]
    numbers = b"a,b,y\n1,2,20\n3,4,10\n5,6,20\n"
    assert load(tmp_path, numbers, labels=["20", "10", "30"]).splits["train"]["y"].tolist() == [0, 1, 0]
    assert load(tmp_path, numbers, labels=["ten", "twenty"]).splits["train"]["y"].tolist() == [20, 10, 20]
    with pytest.raises(EngineError, match="'cat' 2 times"):
        load(tmp_path, TABLE, labels=["cat", "dog", "owl", "cat"])
    assert load(tmp_path, TABLE, labels=["cat", "dog", "owl", "crane", "crane"]).splits["train"]["y"].tolist() == [0, 1]


HOSTILE = {
    "text among numbers": (b"a,b,y\n1,2,0\n3,red,1\n", {}, "Row 2 of column 'b'"),
    "a missing value": (b"a,b,y\n1,2,0\n3,,1\n", {}, "empty"),
    "not a number": (b"a,b,y\n1,2,0\n3,nan,1\n", {}, "NaN"),
    "infinite": (b"a,b,y\n1,2,0\n3,1e999,1\n", {}, "infinity"),
    "numbers with underscores": (b"a,b,y\n1,2,0\n3,1_000,1\n", {}, "no number"),
    "a short row": (b"a,b,y\n1,2,0\n3,4\n", {}, "2 cells"),
    "no header": (b"1,2,0\n3,4,1\n", {}, "numbers"),
    "a name twice": (b"a,a,y\n1,2,0\n", {}, "twice"),
    "no rows": (b"a,b,y\n", {}, "no rows"),
    "an open quotation": (b'a,b,y\n1,2,"0\n' + b"x" * 200_000, {}, "damaged"),
    "a strange split": (b"a,split\n1,dev\n", {}, "'dev'"),
    "a column that is not there": (TABLE, {"table": {"targets": ["kind"]}}, "'kind'"),
    "a class that is not there": (TABLE, {"labels": ["cat", "dog"]}, "'owl'"),
    "an empty target": (b"a,b,y\n1,2,0\n3,4,\n", {}, "no target"),
    "not text": (b"a,b,y\n1,2,0\n\xff\xfe,4,1\n", {}, "UTF-8"),
    "nothing to fit on": (b"a,b,split\n1,2,test\n", {"table": {"standardize": "train"}}, "training rows"),
    "only targets": (b"y,split\n1,train\n", {}, "no column of features"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_wrong_is_named(tmp_path: Path, name: str) -> None:
    data, metadata, message = HOSTILE[name]
    with pytest.raises(EngineError, match=message) as caught:
        load(tmp_path, data, **metadata)
    assert caught.value.code == "dataset_invalid"


@pytest.mark.parametrize(
    "head", [b"hello world\n", b"a,b\nc,d\n", b'{"a": 1,\n"b": 2}', b"<p>1,2\n3,4</p>", b"1,2\0\n3,4", b"name,age\n", b"\xff\xfe1,2\n3,4"]
)
def test_other_texts_are_no_tables(head: bytes) -> None:
    assert not recognizes(head)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    found: Any = None
    try:
        found = load(tmp_path_factory.mktemp("any"), b"a,b,y\n1,2,0\n" + data)
    except EngineError as error:
        found = error
    assert getattr(found, "code", "dataset_invalid") == "dataset_invalid"
    assert isinstance(found, EngineError) or found.splits["train"]["x"].shape[1] == 2


def test_standardization_keeps_the_digits_of_large_numbers_and_centers_what_is_constant(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    columns = np.stack([1.7e9 + np.arange(500) * 0.5, np.full(500, 0.1)], axis=1)  # times; a tenth has no end in binary
    rows = "\n".join(f"{a!r},{b!r},{'train' if rng.random() < 0.7 else 'test'}" for a, b in columns.tolist())
    stored = load(tmp_path, f"a,b,split\n{rows}".encode(), table={"standardize": "train"})
    train = np.array([line.split(",")[0] for line in rows.splitlines() if line.endswith("train")], dtype=np.float64)
    assert stored.splits["train"]["x"][:, 0] == pytest.approx((train - train.mean()) / train.std(), abs=1e-6)
    assert all((part["x"][:, 1] == 0).all() for part in stored.splits.values())
    assert stored.standardization.std[1] == 1
    stated = {"mean": [1.7e9, 0.1], "std": [100.0, 1.0]}
    path = tmp_path / "table.csv"
    for place, preprocessing in enumerate((stated, {"x": stated})):
        metadata = DatasetMetadata.model_validate({"preprocessing": preprocessing})
        data = load_dataset(path, "csv", metadata, SIGNATURE, tmp_path / f"stated{place}")
        assert data.split("train").batch(np.arange(3))[0]["x"][:, 0] == pytest.approx((train[:3] - 1.7e9) / 100, abs=1e-6)


@pytest.mark.parametrize("target", ["1,5", "NA", "?", "n/a", "1.5 m"])
def test_targets_that_are_numbers_but_for_some_name_no_classes(target: str, tmp_path: Path) -> None:
    table = f'a,b,y\n1,2,1.5\n3,4,"{target}"\n5,6,2.5\n'.encode()
    with pytest.raises(EngineError, match="Targets are numbers") as caught:
        load(tmp_path, table)
    assert caught.value.code == "dataset_invalid"
    assert load(tmp_path, table, labels=["1.5", "2.5", target]).splits["train"]["y"].tolist() == [0, 2, 1]
    assert load(tmp_path, b"a,b,y\n1,2,0-4\n3,4,5\n5,6,6+\n").classes == ("0-4", "5", "6+")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (b"a;b;y\n1,5;2;0\n", "with a point"),
        (b"a,b,y\n5%,2,0\n", "with a point"),
        (b",a,b,y\n0,1,2,0\n", "index=False"),
        (b"a,b,y\nNA,2,0\n", "Fill it"),
    ],
)
def test_refusals_say_what_to_do(table: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        load(tmp_path, table)
    assert words in (caught.value.hint or "")
