"""npz datasets: what is in the file reaches the network in the shape and type that it takes."""

import contextlib
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.contract.errors import EngineError
from engine.contract.metadata import DatasetMetadata
from engine.data import load_dataset
from engine.data.dataset import Data
from engine.files.magic import check_file
from engine.networks.network import Signature, TensorSpec
from engine.outputs.evidence import columns_of
from tests.engine.formats.onnx.files import npz_file, zip_file

RNG = np.random.default_rng(1)


def signature(*inputs: tuple, dtype: str = "float32", classes: int | None = 3) -> Signature:
    names = ["x"] if len(inputs) == 1 else ["a", "b"]
    return Signature(
        tuple(TensorSpec(name, (None, *shape), dtype) for name, shape in zip(names, inputs, strict=False)),
        (TensorSpec("y", (None, classes)),),
    )


IMAGES = signature((1, 8, 8))


def load(tmp_path: Path, data: bytes, wanted: Signature = IMAGES, preprocessing: dict[str, Any] | None = None) -> Data:
    path = tmp_path / "data.npz"
    path.write_bytes(data)
    metadata = {} if preprocessing is None else {"preprocessing": preprocessing}
    return load_dataset(path, "npz", DatasetMetadata.model_validate(metadata), wanted, tmp_path / "work")


def refused(tmp_path: Path, data: bytes, wanted: Signature = IMAGES, preprocessing: dict[str, Any] | None = None) -> EngineError:
    with pytest.raises(EngineError) as caught:
        load(tmp_path, data, wanted, preprocessing)
    return caught.value


@pytest.mark.parametrize("compressed", [False, True])
def test_bytes_stay_bytes_at_rest_and_are_scaled_batch_by_batch(compressed: bool, tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (12, 8, 8), dtype=np.uint8)
    arrays = {"x_train": images, "y_train": np.arange(12) % 3, "x_test": images[:5], "y_test": np.arange(5) % 3}
    data = load(tmp_path, npz_file(arrays, compressed=compressed), IMAGES, {"scale": 1 / 255, "mean": 0.5, "std": 0.25, "layout": "NHW"})
    train = data.split("train")
    stored = train.inputs["x"]
    assert isinstance(stored, np.memmap)
    assert stored.dtype == np.uint8
    batch, labels = train.batch([3, 0, 7])
    np.testing.assert_allclose(batch["x"], (images[[3, 0, 7], None] / 255 - 0.5) / 0.25, atol=1e-5)
    assert batch["x"].dtype == np.float32
    assert batch["x"].flags["C_CONTIGUOUS"]
    assert labels["y"].tolist() == [0, 0, 1]
    assert (train.count, data.split("test").count) == (12, 5)
    assert sum(len(part[1]["y"]) for part in train.batches(5)) == 12


@pytest.mark.parametrize(
    ("stored", "layout", "target", "expected"),
    [
        ((8, 8), "NHW", (1, 8, 8), lambda x: x[:, None]),
        ((8, 8), "NHW", (8, 8, 1), lambda x: x[..., None]),
        ((8, 6, 3), "NHWC", (3, 8, 6), lambda x: x.transpose(0, 3, 1, 2)),
        ((3, 8, 6), "NCHW", (3, 8, 6), lambda x: x),
        ((8, 6, 3), "NHWC", (8, 6, 3), lambda x: x),
        ((3, 8, 6), "NCHW", (8, 6, 3), lambda x: x.transpose(0, 2, 3, 1)),
        ((8, 6, 3), None, (8, 6, 3), lambda x: x),
        ((6, 8, 3), "NWHC", (3, 8, 6), lambda x: x.transpose(0, 3, 2, 1)),
        ((20, 2), "NLC", (2, 20), lambda x: x.transpose(0, 2, 1)),
        ((20,), "NL", (1, 20), lambda x: x[:, None]),
        ((8, 8), "NHW", (64,), lambda x: x.reshape(len(x), -1)),
        ((1, 8, 8), "NCHW", (64,), lambda x: x.reshape(len(x), -1)),
        ((7,), None, (None,), lambda x: x),
    ],
)
def test_layouts(stored: tuple, layout: str | None, target: tuple, expected: Any, tmp_path: Path) -> None:
    images = RNG.standard_normal((4, *stored)).astype(np.float32)
    data = load(tmp_path, npz_file({"x_test": images}), signature(target), {} if layout is None else {"layout": layout})
    batch, labels = data.split("test").batch(np.arange(4))
    np.testing.assert_array_equal(batch["x"], expected(images))
    assert labels == {}


@pytest.mark.parametrize(("target", "layout", "shaped"), [((3, 4, 5), "NHWC", (3, 1, 1)), ((4, 5, 3), None, (3,))])
def test_mean_and_deviation_of_each_channel(target: tuple, layout: str | None, shaped: tuple, tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (4, 4, 5, 3), dtype=np.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    stated = {"scale": 1 / 255, "mean": mean, "std": std} | ({"layout": layout} if layout else {})
    batch, _ = load(tmp_path, npz_file({"x_train": images}), signature(target), stated).split("train").batch(np.arange(4))
    moved = images.transpose(0, 3, 1, 2) if layout else images
    np.testing.assert_allclose(batch["x"], (moved / 255 - np.reshape(mean, shaped)) / np.reshape(std, shaped), atol=1e-5)


def test_channels_are_scaled_before_a_flattening(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (4, 4, 5, 3), dtype=np.uint8)
    stated = {"mean": [1.0, 2.0, 3.0], "layout": "NHWC"}
    batch, _ = load(tmp_path, npz_file({"x_train": images}), signature((60,)), stated).split("train").batch(np.arange(4))
    moved = images.transpose(0, 3, 1, 2).astype(np.float32) - np.reshape([1, 2, 3], (3, 1, 1))
    np.testing.assert_allclose(batch["x"], moved.reshape(4, 60))


def test_tokens_stay_integers(tmp_path: Path) -> None:
    tokens = RNG.integers(0, 200, (6, 10), dtype=np.uint8)
    data = load(tmp_path, npz_file({"x_train": tokens, "y_train": np.arange(6) % 3}), signature((10,), dtype="int64"))
    batch, _ = data.split("train").batch([1, 2])
    assert batch["x"].dtype == np.int64
    np.testing.assert_array_equal(batch["x"], tokens[1:3])


@pytest.mark.parametrize(
    ("stored", "kind", "preprocessing", "held"),
    [
        (np.array([[3, 300]]), "uint8", None, False),
        (np.array([[3, -1]]), "uint8", None, False),
        (np.array([[3, 255]]), "uint8", None, True),
        (np.array([[3, 2**31]]), "int32", None, False),
        (np.array([[-(2**31), 2**31 - 1]]), "int32", None, True),
        (np.array([[3, 2**63]], dtype=np.uint64), "int64", None, False),
        (np.array([[1.0, 1e39]]), "float32", None, False),
        (np.array([[1.0, 1e38]]), "float32", None, True),
        (np.array([[1.0, 1e38]]), "float32", {"scale": 100.0}, False),
        (np.array([[1.0, 1e39]]), "float32", {"std": 1e9}, True),
        (np.array([[1.0, 70_000.0]], dtype=np.float32), "float16", None, False),
        (np.array([[1, 255]], dtype=np.uint8), "float16", {"scale": 1000.0}, False),
        (np.array([[1, 255]], dtype=np.uint8), "float16", {"scale": 10.0}, True),
    ],
)
def test_numbers_that_the_input_cannot_hold_are_refused_and_not_changed(
    stored: np.ndarray, kind: str, preprocessing: Any, held: bool, tmp_path: Path
) -> None:
    data, wanted = npz_file({"x_train": np.ones((1, 2), stored.dtype), "x_test": stored}), signature((2,), dtype=kind)
    if not held:
        error = refused(tmp_path, data, wanted, preprocessing)
        assert error.code == "dataset_invalid"
        assert "x_test" in error.message
        assert kind in error.message
        return
    stated = preprocessing or {}
    got = load(tmp_path, data, wanted, preprocessing).split("test").batch([0])[0]["x"]
    np.testing.assert_allclose(got, (stored * stated.get("scale", 1) / stated.get("std", 1)).astype(kind), rtol=1e-3)


def test_several_inputs_each_with_its_own_preprocessing(tmp_path: Path) -> None:
    first, second = RNG.integers(0, 9, (6, 4), dtype=np.uint8), RNG.standard_normal((6, 3)).astype(np.float32)
    arrays = {"x_train.a": first, "x_train.b": second, "y_train": np.arange(6) % 3}
    wanted = Signature((TensorSpec("a", (None, 4), "int64"), TensorSpec("b", (None, 3))), (TensorSpec("y", (None, 3)),))
    batch, _ = load(tmp_path, npz_file(arrays), wanted, {"b": {"scale": 2.0}}).split("train").batch([0, 5])
    np.testing.assert_array_equal(batch["a"], first[[0, 5]])
    np.testing.assert_allclose(batch["b"], second[[0, 5]] * 2)
    del arrays["x_train.b"]
    error = refused(tmp_path, npz_file(arrays), wanted)
    assert error.code == "dataset_invalid"
    assert "x_train.b" in error.message


def test_fortran_order_and_big_endian_arrays(tmp_path: Path) -> None:
    images = RNG.standard_normal((5, 8, 8)).astype(">f4")
    data = load(tmp_path, npz_file({"x_train": np.asfortranarray(images)}), IMAGES, {"layout": "NHW"})
    batch, _ = data.split("train").batch([4, 1])
    np.testing.assert_array_equal(batch["x"], images[[4, 1], None].astype(np.float32))


def arrays(**changes: Any) -> bytes:
    good = {"x_train": np.zeros((6, 1, 8, 8), np.float32), "y_train": np.arange(6) % 3}
    return npz_file({key: value for key, value in {**good, **changes}.items() if value is not None})


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (arrays(y_train=np.arange(5) % 3), "dataset_invalid", ("y_train", "5 examples", "has 6")),
        (arrays(y_train=np.full(6, np.nan)), "dataset_invalid", ("Example 0", "'y_train'")),
        (arrays(x_train=np.full((6, 1, 8, 8), np.nan, np.float32)), "dataset_invalid", ("Example 0", "NaN")),
        (arrays(x_train=np.zeros((6, 8, 8), np.float32)), "shape_mismatch", ("(1, 8, 8)", "(8, 8)", "layout")),
        (arrays(x_train=np.zeros((6, 3, 8, 8), np.float32)), "shape_mismatch", ("(1, 8, 8)", "(3, 8, 8)")),
        (b"PK\x03\x04" + bytes(40), "dataset_invalid", ("npz",)),
    ],
)
def test_what_does_not_fit_the_model_says_where(data: bytes, code: str, words: tuple, tmp_path: Path) -> None:
    error = refused(tmp_path, data)
    assert error.code == code
    assert all(word in f"{error.message} {error.hint}" for word in words)


@pytest.mark.parametrize(
    ("preprocessing", "code", "word"),
    [
        ({"mean": [0.1, 0.2]}, "dataset_invalid", "2 numbers"),
        ({"layout": "NHW"}, "shape_mismatch", "names 3 dimensions"),
        ({"image": {"scale": 0.1}}, "dataset_invalid", "'image', which is no input"),
    ],
)
def test_preprocessing_that_means_nothing(preprocessing: Any, code: str, word: str, tmp_path: Path) -> None:
    error = refused(tmp_path, arrays(), IMAGES, preprocessing)
    assert error.code == code
    assert word in f"{error.message} {error.hint}"


def test_scaled_tokens_are_refused(tmp_path: Path) -> None:
    tokens = npz_file({"x_train": np.zeros((6, 10), np.uint8)})
    assert refused(tmp_path, tokens, signature((10,), dtype="int64"), {"scale": 0.5}).code == "dataset_invalid"
    floats = npz_file({"x_train": np.zeros((6, 10), np.float32)})
    assert refused(tmp_path, floats, signature((10,), dtype="int64")).code == "dataset_invalid"


def test_classes_have_the_names_that_the_file_gives_them(tmp_path: Path) -> None:
    assert load(tmp_path, arrays(classes=np.array(["a", "b", "c"]))).classes == ("a", "b", "c")


@pytest.mark.parametrize("target", [np.arange(6) / 7, np.eye(6, 4, dtype=np.uint8), np.zeros((6, 8, 8), np.int16), np.arange(6) - 3])
def test_targets_of_any_kind_are_kept_as_they_were_stored(target: np.ndarray, tmp_path: Path) -> None:
    split = load(tmp_path, arrays(y_train=target, **{"y_train.box": target[:, None]})).split("train")
    assert set(split.targets) == {"y", "y.box"}
    _, given = split.batch([4, 1])
    assert given["y"].dtype == target.dtype
    np.testing.assert_array_equal(given["y"], target[[4, 1]])
    np.testing.assert_array_equal(split.take(np.array([5, 2])).targets_at([1])["y.box"], target[[2], None])


def test_an_archive_that_lies_about_sizes_writes_no_more_than_it_declares(tmp_path: Path) -> None:
    """The header claims ten bytes of data; the member inflates to a megabyte."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (10, 1)})
    member = head.getvalue() + bytes(2**20)
    data = bytearray(zip_file({"x_train.npy": member}, zipfile.ZIP_DEFLATED))
    claimed = (len(head.getvalue()) + 10).to_bytes(4, "little")
    real = len(member).to_bytes(4, "little")
    data = data.replace(real, claimed)
    error = refused(tmp_path, bytes(data), signature((1,)))
    assert error.code in ("dataset_invalid", "decompression_limit_exceeded")
    assert sum(path.stat().st_size for path in (tmp_path / "work").glob("*")) <= 10


def test_a_member_that_begins_before_the_file_is_damage(tmp_path: Path) -> None:
    content = bytearray(npz_file())
    content[content.rfind(b"PK\x05\x06") + 16] += 1  # the directory is said to begin one byte later: everything moves one forward
    assert refused(tmp_path, bytes(content), IMAGES).code == "dataset_invalid"
    with pytest.raises(EngineError) as caught:
        check_file(io.BytesIO(content), "npz")
    assert caught.value.code == "truncated_upload"


@settings(max_examples=80, deadline=None)
@given(data=st.data(), compressed=st.booleans())
def test_damage_is_never_anything_but_an_engine_error(
    data: st.DataObject, compressed: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(npz_file(compressed=compressed))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(EngineError):
        loaded = load(tmp_path_factory.getbasetemp(), bytes(content), IMAGES, {"layout": "NHW"})
        for split in loaded.splits.values():
            split.batch([0])


def test_an_input_of_one_number_is_given_to_whole_batches(tmp_path: Path) -> None:
    wanted = Signature((TensorSpec("sound", (None, 4)), TensorSpec("rate", (), "int64")), (TensorSpec("y", (None, 1)),))
    sound = RNG.standard_normal((6, 4)).astype(np.float32)
    for rate in (np.full(6, 16000), np.full((6, 1), 16000)):
        batch, _ = load(tmp_path, npz_file({"x_train.sound": sound, "x_train.rate": rate}), wanted).split("train").batch([3, 1])
        assert (batch["rate"].shape, str(batch["rate"].dtype), int(batch["rate"])) == ((), "int64", 16000)
    error = refused(tmp_path, npz_file({"x_train.sound": sound, "x_train.rate": np.arange(6)}), wanted)
    assert "one number for all examples" in error.message


@pytest.mark.parametrize("kind", ["U6", "S6"])
@pytest.mark.parametrize("order", [(), ("wolf", "ant", "bee")])
def test_names_of_classes_are_numbered_as_in_tables(kind: str, order: tuple[str, ...], tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"x_train": np.zeros((4, 1, 8, 8), np.float32), "x_test": np.zeros((2, 1, 8, 8), np.float32)}
    arrays |= {"y_train": np.array(["wolf", "ant", "bee", "ant "], kind), "y_test": np.array(["bee", "wolf"], kind)}
    data = load(tmp_path, npz_file(arrays | ({"classes": np.array(order)} if order else {})))
    names = order or ("ant", "bee", "wolf")
    assert data.classes == names
    assert data.named == {"y"}
    assert [names[place] for place in data.split("train").targets["y"]] == ["wolf", "ant", "bee", "ant"]
    assert [names[place] for place in data.split("test").targets["y"]] == ["bee", "wolf"]


def test_names_beside_an_order_of_classes_that_is_not_theirs(tmp_path: Path) -> None:
    arrays = {"x_train": np.zeros((2, 1, 8, 8), np.float32), "y_train": np.array(["ant", "bee"]), "classes": np.array(["ant", "bee"])}
    path = tmp_path / "data.npz"
    path.write_bytes(npz_file(arrays))
    data = load_dataset(path, "npz", DatasetMetadata(labels=("bee", "ant")), IMAGES, tmp_path / "work")
    assert (data.classes, data.split("train").targets["y"].tolist()) == (("bee", "ant"), [1, 0])
    assert load(tmp_path, npz_file(arrays | {"classes": np.array([b"bee", b"ant"])})).classes == ("bee", "ant")


def test_targets_of_one_output_that_are_names_are_no_values(tmp_path: Path) -> None:
    arrays = {"x_train": np.zeros((3, 1, 8, 8), np.float32), "y_train.kind": np.array(["b", "a", "c"]), "y_train.size": np.array([2, 0, 1])}
    data = load(tmp_path, npz_file(arrays))
    columns = columns_of(data.splits, data.named)
    assert {name: column.names_classes for name, column in columns.items()} == {"y.kind": True, "y.size": False}


def test_a_name_that_is_no_class_and_names_in_place_of_examples_are_refused(tmp_path: Path) -> None:
    examples = {"x_train": np.zeros((2, 1, 8, 8), np.float32)}
    strange = refused(tmp_path, npz_file(examples | {"y_train": np.array(["ant", "fly"]), "classes": np.array(["ant", "bee"])}))
    assert (strange.code, "fly" in strange.message) == ("dataset_invalid", True)
    mixed = {"x_test": examples["x_train"], "y_train": np.array(["ant", "bee"]), "y_test": np.array([0, 1])}
    assert "y_test holds numbers" in refused(tmp_path, npz_file(examples | mixed)).message
    assert refused(tmp_path, npz_file({"x_train": np.array(["a", "b"])})).code == "dataset_invalid"
    assert refused(tmp_path, npz_file(examples | {"y_train": np.array([["a", "b"], ["a", "b"]])})).code == "dataset_invalid"
