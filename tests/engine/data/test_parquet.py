"""Tables in Parquet become the arrays that were written, and headers that lie are refused before anything is decoded."""

import decimal
import io
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.contract.errors import EngineError
from engine.contract.metadata import DatasetMetadata
from engine.data.loading import read_stored
from engine.files.magic import check_file, sniff
from engine.files.parquet import Page, pages

RNG = np.random.default_rng(0)
COUNT = 9000
A, B = RNG.normal(5, 3, COUNT), RNG.integers(-5, 5, COUNT, dtype=np.int16)
KIND = RNG.choice(["cat", "dog", "owl"], COUNT)
SPLIT = RNG.choice(["train", "val", "test"], COUNT)


def table(columns: dict[str, Any] | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns or {"a": A, "b": B, "label": KIND, "split": SPLIT}), buffer, **options)
    return buffer.getvalue()


def load(tmp_path: Path, data: bytes, **metadata: Any) -> Any:
    path = tmp_path / "table.parquet"
    path.write_bytes(data)
    with path.open("rb") as file:
        check_file(file, "parquet")
    work = tmp_path / f"work{len(list(tmp_path.iterdir()))}"
    return read_stored(path, "parquet", DatasetMetadata.model_validate(metadata), None, work)


@pytest.mark.parametrize(
    "options", [{}, {"compression": "zstd", "data_page_version": "2.0", "row_group_size": 1000}, {"use_dictionary": False}]
)
def test_features_targets_splits_and_classes(tmp_path: Path, options: dict[str, Any]) -> None:
    data = table(**options)
    assert sniff(data[:4096], None) == "parquet"
    stored = load(tmp_path, data)
    assert stored.classes == ("cat", "dog", "owl")
    for split, stated in (("train", "train"), ("validation", "val"), ("test", "test")):
        rows = stated == SPLIT
        np.testing.assert_array_equal(stored.splits[split]["x"], np.stack([A, B], axis=1)[rows].astype(np.float32))
        assert [stored.classes[number] for number in stored.splits[split]["y"]] == KIND[rows].tolist()
        assert isinstance(stored.splits[split]["x"], np.memmap)


def test_order_of_columns_and_of_classes_as_stated(tmp_path: Path) -> None:
    stored = load(tmp_path, table(), labels=["owl", "dog", "cat"], table={"features": ["b", "a"]})
    rows = SPLIT == "test"
    np.testing.assert_array_equal(stored.splits["test"]["x"], np.stack([B, A], axis=1)[rows].astype(np.float32))
    assert [("owl", "dog", "cat")[number] for number in stored.splits["test"]["y"]] == KIND[rows].tolist()


def test_types_say_what_targets_are(tmp_path: Path) -> None:
    whole = np.arange(6)
    for values, kind in (
        (whole, np.int64),
        (whole.astype(float), np.float32),
        (whole % 2 == 0, np.int64),
        (whole.astype(np.uint8), np.int64),
    ):
        stored = load(tmp_path, table({"a": whole, "y": values}))
        assert stored.splits["train"]["y"].dtype == kind
        assert stored.splits["train"]["y"].tolist() == values.astype(float).tolist()
    coded = pa.array(["x", "z", "x"]).dictionary_encode()
    for texts in (coded, coded.cast(pa.large_string()), coded.cast(pa.string()).cast(pa.string_view())):
        assert load(tmp_path, table({"a": [1, 2, 3], "y": texts})).splits["train"]["y"].tolist() == [0, 1, 0]
    money = pa.array([decimal.Decimal("1.5"), decimal.Decimal("2.25")])
    assert load(tmp_path, table({"a": money, "y": [0, 1]})).splits["train"]["x"].tolist() == [[1.5], [2.25]]
    mixed = load(tmp_path, table({"a": whole, "u": whole, "v": whole / 2}), table={"targets": ["v", "u"]})
    assert mixed.splits["train"]["y"].tolist() == [[i / 2, i] for i in range(6)]


def test_the_same_rows_are_drawn_as_from_the_same_table_in_csv(tmp_path: Path) -> None:
    stated = {"test_share": 0.3, "standardize": "train"}
    values = {"a": A[:5000], "b": B[:5000], "y": B[:5000] + 5}
    lines = "".join(f"{a!r},{b},{y}\n" for a, b, y in zip(*(column.tolist() for column in values.values()), strict=True))
    (tmp_path / "table.csv").write_text(f"a,b,y\n{lines}")
    text = read_stored(tmp_path / "table.csv", "csv", DatasetMetadata.model_validate({"table": stated}), None, tmp_path / "csv")
    stored = load(tmp_path, table(values), table=stated)
    for split in ("train", "test"):
        np.testing.assert_array_equal(stored.splits[split]["x"], text.splits[split]["x"])
        np.testing.assert_array_equal(stored.splits[split]["y"], text.splits[split]["y"])
    assert stored.standardization == text.standardization
    train = stored.splits["train"]["x"].astype(np.float64)
    np.testing.assert_allclose([train.mean(0), train.std(0)], [[0, 0], [1, 1]], atol=1e-5)


WRONG = {
    "a missing value": ({"a": [1.0, None, 3.0], "y": [0, 1, 0]}, {}, "Row 2 of column 'a' is empty"),
    "a missing target": ({"a": [1, 2], "y": ["cat", None]}, {}, "Row 2 of column 'y' is empty"),
    "a blank target": ({"a": [1, 2], "y": [" ", "cat"]}, {}, "Row 1 of column 'y' is empty"),
    "not a number": ({"a": [1.0, float("nan")], "y": [0, 1]}, {}, "NaN"),
    "too large": ({"a": [1.0, 1e300], "y": [0, 1]}, {}, "infinity"),
    "texts as features": ({"a": ["x", "y"], "y": [0, 1]}, {}, "'a' holds string"),
    "lists": ({"a": [[1], [2]], "y": [0, 1]}, {}, "'a' holds list"),
    "times": ({"a": [1, 2], "t": np.array(["2020-01-01", "2020-01-02"], dtype="datetime64[ms]")}, {}, "timestamp"),
    "row names": ({"a": [1, 2], "__index_level_0__": [0, 1]}, {}, "row names"),
    "a strange split": ({"a": [1, 2], "split": ["train", "dev"]}, {}, "Row 2 belongs to the split 'dev'"),
    "a split of numbers": ({"a": [1, 2], "split": [0, 1]}, {}, "not texts"),
    "a column that is not there": ({"a": [1, 2]}, {"table": {"targets": ["kind"]}}, "'kind'"),
    "a class that is not there": ({"a": [1, 2], "y": ["u", "v"]}, {"labels": ["u"]}, "'v'"),
    "no rows": ({"a": pa.array([], pa.float32())}, {}, "no rows"),
    "nothing to fit on": ({"a": [1, 2], "split": ["test", "test"]}, {"table": {"standardize": "train"}}, "training rows"),
    "numbers past 64 bits": ({"a": [1, 2], "y": np.array([1, 2**64 - 1], dtype=np.uint64)}, {}, "damaged"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(tmp_path: Path, name: str) -> None:
    columns, metadata, message = WRONG[name]
    with pytest.raises(EngineError, match=message) as caught:
        load(tmp_path, table(columns), **metadata)
    assert caught.value.code == "dataset_invalid"


def test_a_small_file_that_becomes_a_large_one_is_refused_undecoded(tmp_path: Path) -> None:
    allocated = pa.total_allocated_bytes()
    rows = table({"a": np.zeros(20_000_000, dtype=np.int8), "y": np.zeros(20_000_000, dtype=np.int8)}, compression="zstd")
    assert len(rows) < 400_000
    page = table({"a": [1], "y": ["a" * (65 << 20)]}, compression="zstd")
    for data in (rows, page):
        with pytest.raises(EngineError) as caught:
            load(tmp_path, data)
        assert caught.value.code == "decompression_limit_exceeded"
    assert pa.total_allocated_bytes() <= allocated


def _patched(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data
    assert len(old) == len(new)
    place = data.rfind(old)
    return data[:place] + new + data[place + len(old) :]


def test_headers_that_lie_are_refused(tmp_path: Path) -> None:
    data = table({"a": np.arange(300.0)}, use_dictionary=False, compression="none", write_statistics=False)
    # 300 rows are the varint of 600; the last one in the footer is num_rows of the row group.
    for lie in (b"\xda\x04", b"\xd0\x04", b"\xd8\x7f"):
        with pytest.raises(EngineError, match="damaged") as caught:
            load(tmp_path, _patched(data, b"\xd8\x04", lie))
        assert caught.value.code == "dataset_invalid"
    for wrong, code in (
        (data[:-4] + b"PARE", "dataset_invalid"),
        (data[:-3], "truncated_upload"),
        (data[:-8] + b"\xff\xff\xff\x7fPAR1", "tensor_limit_exceeded"),
    ):
        with pytest.raises(EngineError) as caught:
            load(tmp_path, wrong)
        assert caught.value.code == code


def test_page_headers_are_read_as_the_format_writes_them() -> None:
    buffer = io.BytesIO(table({"a": A}, data_page_size=4096, use_dictionary=False))
    chunk = pq.ParquetFile(buffer).metadata.row_group(0).column(0)
    found = list(pages(buffer, chunk.data_page_offset, chunk.total_compressed_size))
    assert len(found) == -(-COUNT // 1024)
    assert sum(page.values for page in found) == COUNT
    assert all(not page.dictionary and page.uncompressed_bytes >= page.values * 8 for page in found)
    coded = io.BytesIO(table({"a": B}))
    chunk = pq.ParquetFile(coded).metadata.row_group(0).column(0)
    first = next(pages(coded, chunk.dictionary_page_offset, chunk.total_compressed_size))
    assert first == Page(4 * 10, 10, dictionary=True)  # INT32 is the narrowest physical type


def test_any_changed_byte_is_refused_or_harmless(tmp_path: Path) -> None:
    """In a process of its own, as in a job: Arrow's own checks end some of them, and with it the job (`child_crashed`)."""
    good, rng, files = table({"a": np.arange(50.0), "y": np.arange(50) % 3}), np.random.default_rng(), []
    for number in range(80):
        data = bytearray(good)
        for place in rng.integers(4, len(good) - 4, rng.integers(1, 4)):
            data[place] = rng.integers(256)
        files.append(tmp_path / f"{number}.parquet")
        files[-1].write_bytes(data)
    refused = ("dataset_invalid", "decompression_limit_exceeded", "truncated_upload", "tensor_limit_exceeded")
    crashes = 0
    while files:
        command = [sys.executable, "-m", "tests.engine.data.changed", *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        verdicts = done.stdout.splitlines()
        assert set(verdicts) <= {*refused, "read"}, (done.stderr, [file.read_bytes().hex() for file in files])
        assert done.returncode in (0, -signal.SIGABRT), (done.stderr, files[len(verdicts)].read_bytes().hex())
        crashes += done.returncode != 0
        files = files[len(verdicts) + (done.returncode != 0) :]
    assert crashes < 5
