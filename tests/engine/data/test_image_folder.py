"""Pictures in folders reach the network in its size and layout, and hostile ones are refused with their name."""

import io
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.contract.errors import EngineError
from engine.contract.metadata import DatasetMetadata
from engine.data import load_dataset
from engine.data.dataset import Data
from engine.files.magic import check_file, sniff
from engine.jobs.dataset_inspection import inspect_dataset
from engine.networks.network import Signature, TensorSpec

RNG = np.random.default_rng(0)
FIRST = Signature((TensorSpec("x", (None, 3, 8, 6)),), (TensorSpec("y", (None, 2)),))
LAST = Signature((TensorSpec("x", (None, 8, 6, 3)),), (TensorSpec("y", (None, 2)),))


def picture(height: int = 8, width: int = 6, mode: str = "RGB", kind: str = "PNG", value: Any = None) -> bytes:
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    array = RNG.integers(0, 256, shape, dtype=np.uint8) if value is None else np.full(shape, value, dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(array, mode if mode != "RGB" else None).save(stream, kind)
    return stream.getvalue()


def png(picture: np.ndarray | None = None, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((16, 24, 3), np.uint8) if picture is None else picture).save(stream, kind)
    return stream.getvalue()


def png_file(width: int, height: int, bits: int, color: int, rows: bytes) -> bytes:
    """A PNG file of just these samples, of a depth that Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = len(rows) // height
    lines = b"".join(b"\0" + rows[start : start + size] for start in range(0, len(rows), size))
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def folder(**members: bytes) -> bytes:
    return archive({name.replace("__", "/").replace("_DOT_", "."): data for name, data in members.items()})


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, data in members.items():
            file.writestr(name, data)
    return stream.getvalue()


GOOD = {
    "train/cat/b.png": picture(),
    "train/cat/a.png": picture(),
    "train/dog/a.png": picture(),
    "test/dog/a.png": picture(),
    "val/cat/a.png": picture(),
    "__MACOSX/train/cat/._a.png": b"junk",
    "train/.DS_Store": b"junk",
}


def load(tmp_path: Path, data: bytes, signature: Signature = FIRST, **metadata: Any) -> Data:
    path = tmp_path / "pictures.zip"
    path.write_bytes(data)
    with path.open("rb") as file:
        check_file(file, "image_folder")
    return load_dataset(path, "image_folder", DatasetMetadata.model_validate(metadata), signature, tmp_path / f"work{RNG.integers(10**9)}")


def pixels(name: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(GOOD[name])))


def test_pictures_labels_and_splits_are_those_of_the_folders(tmp_path: Path) -> None:
    data = load(tmp_path, archive(GOOD))
    assert data.classes == ("cat", "dog")
    assert {name: split.count for name, split in data.splits.items()} == {"train": 3, "validation": 1, "test": 1}
    inputs, targets = data.split("train").batch([0, 1, 2])
    assert targets["y"].tolist() == [0, 0, 1]
    expected = np.stack([pixels(f"train/{name}").transpose(2, 0, 1) for name in ("cat/a.png", "cat/b.png", "dog/a.png")])
    np.testing.assert_array_equal(inputs["x"], expected)
    assert isinstance(data.split("train").inputs["x"], np.memmap)
    assert data.split("train").inputs["x"].dtype == np.uint8


@pytest.mark.parametrize("layout", [None, "NHWC", "NCHW"])
@pytest.mark.parametrize("signature", [FIRST, LAST], ids=["channels first", "channels last"])
def test_any_layout_reaches_the_network_and_is_normalized(tmp_path: Path, layout: str | None, signature: Signature) -> None:
    stated = {"scale": 1 / 255, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], **({"layout": layout} if layout else {})}
    data = load(tmp_path, archive(GOOD), signature, preprocessing=stated)
    got = data.split("test").batch([0])[0]["x"][0]
    expected = (pixels("test/dog/a.png") / 255 - [0.4, 0.5, 0.6]) / [0.2, 0.3, 0.4]
    np.testing.assert_allclose(got if signature is LAST else got.transpose(1, 2, 0), expected, atol=1e-5)
    assert data.split("test").pictures["x"].size == (8, 6)
    named = load(tmp_path, archive(GOOD), signature, preprocessing={"x": stated})
    assert np.array_equal(named.split("test").batch([0])[0]["x"][0], got)
    assert named.split("test").pictures["x"].shape == data.split("test").pictures["x"].shape
    assert named.split("test").pictures["x"].channels == data.split("test").pictures["x"].channels == (2 if signature is LAST else 0)


def test_resize_and_crop_are_pillows(tmp_path: Path) -> None:
    source = picture(20, 30)
    data = archive({"train/a/1.png": source, "train/b/1.png": picture(9, 9)})
    image = Image.open(io.BytesIO(source))
    exact = load(tmp_path, data).split("train").batch([0])[0]["x"][0]
    np.testing.assert_array_equal(exact.transpose(1, 2, 0), np.asarray(image.resize((6, 8), Image.Resampling.BILINEAR)))
    cut = load(tmp_path, data, images={"resize": 10, "crop": [8, 6], "interpolation": "bicubic"}).split("train").batch([0])[0]["x"][0]
    expected = np.asarray(image.resize((15, 10), Image.Resampling.BICUBIC))[1:9, 4:10]
    np.testing.assert_array_equal(cut.transpose(1, 2, 0), expected)


def test_gray_pictures_alphas_and_palettes_become_what_the_network_takes(tmp_path: Path) -> None:
    members = {"train/a/1.jpg": picture(8, 6, "L", "JPEG", 77), "train/b/1.png": picture(value=77)}
    stream = io.BytesIO()
    Image.new("P", (6, 8), 3).save(stream, "PNG")
    members["train/b/2.png"] = stream.getvalue()
    data = load(tmp_path, archive(members))
    assert (data.split("train").batch([0])[0]["x"] == 77).all()
    gray = Signature((TensorSpec("x", (None, 1, 8, 6)),), (TensorSpec("y", (None, 2)),))
    assert (load(tmp_path, archive(members), gray).split("train").batch([0, 1])[0]["x"] == 77).all()


def test_classes_are_numbered_as_the_metadata_say(tmp_path: Path) -> None:
    data = load(tmp_path, archive(GOOD), labels=["dog", "bird", "cat"])
    assert data.split("train").batch([0, 1, 2])[1]["y"].tolist() == [2, 2, 0]
    with pytest.raises(EngineError, match="'dog'"):
        load(tmp_path, archive(GOOD), labels=["cat", "bird"])
    with pytest.raises(EngineError, match="'dog' 2 times"):
        load(tmp_path, archive(GOOD), labels=["dog", "cat", "dog"])


@pytest.mark.parametrize(
    ("names", "splits", "labelled"),
    [
        (["cat/1.png", "dog/1.png"], {"train": 2}, True),
        (["photos/cat/1.png", "photos/dog/1.png"], {"train": 2}, True),
        (["set/train/cat/1.png", "set/test/dog/1.png"], {"train": 1, "test": 1}, True),
        (["train/1.png", "train/2.png", "test/1.png"], {"train": 2, "test": 1}, False),
        (["1.png", "2.png"], {"train": 2}, False),
    ],
)
def test_folders_as_people_zip_them(tmp_path: Path, names: list[str], splits: dict[str, int], labelled: bool) -> None:
    data = load(tmp_path, archive(dict.fromkeys(names, picture())))
    assert {name: split.count for name, split in data.splits.items()} == splits
    assert all(bool(split.targets) == labelled for split in data.splits.values())


def test_it_is_recognized_by_its_first_members_and_no_other_archive_is() -> None:
    assert sniff(archive(GOOD)[:4096], None) == "image_folder"
    assert sniff(archive({"train/": b"", "train/cat/": b"", "train/cat/a.jpg": picture()})[:4096], None) == "image_folder"
    assert sniff(archive({"config.json": b"{}"})[:4096], None) == "huggingface"
    assert sniff(archive({"folder/": b"", "folder/model.onnx": b"x"})[:4096], None) == "onnx_zip"
    with pytest.raises(EngineError) as caught:
        sniff(archive({"a.png": b"x", "code.py": b"x"})[:4096], None)
    assert caught.value.code == "unsupported_format"


def test_the_inspection_leaves_sizes_open(tmp_path: Path) -> None:
    path = tmp_path / "pictures.zip"
    path.write_bytes(archive(GOOD))
    found = inspect_dataset(path, "image_folder", DatasetMetadata(), tmp_path / "work")
    assert {column.name: column.shape for column in found.columns} == {"x": (None, None, None), "y": ()}
    assert found.classes == ("cat", "dog")
    assert found.splits["train"].examples_count == 3


def lying_png(width: int, height: int) -> bytes:
    """A PNG that claims a size that it does not have."""
    data = bytearray(picture())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def sixteen_bits() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 6), 40_000, dtype=np.uint16)).save(stream, "PNG")
    return stream.getvalue()


HOSTILE = {
    "bomb of pixels": ({"train/a/1.png": lying_png(200_000, 200_000)}, "decompression_limit_exceeded"),
    "bomb below Pillow's own limit": ({"train/a/1.png": lying_png(9_000, 8_000)}, "decompression_limit_exceeded"),
    "larger than its data": ({"train/a/1.png": lying_png(600, 800)}, "dataset_invalid"),
    "cut off": ({"train/a/1.jpg": picture(64, 64, kind="JPEG")[:400]}, "dataset_invalid"),
    "another format by its bytes": ({"train/a/1.png": picture(kind="GIF")}, "dataset_invalid"),
    "a program by its bytes": ({"train/a/1.jpg": b"\x7fELF" + bytes(100)}, "dataset_invalid"),
    "postscript, which other decoders run": ({"train/a/1.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"}, "dataset_invalid"),
    "a script beside pictures": ({"train/a/1.png": picture(), "train/a/run.sh": b"touch marker"}, "dataset_invalid"),
    "deeper than classes": ({"train/a/b/1.png": picture()}, "dataset_invalid"),
    "out of the folder": ({"../../a/1.png": picture()}, "dataset_invalid"),
    "half labelled": ({"train/a/1.png": picture(), "train/2.png": picture()}, "dataset_invalid"),
    "half split": ({"train/a/1.png": picture(), "other/1.png": picture()}, "dataset_invalid"),
    "splits in other words": ({"Training/1.png": picture(), "Testing/1.png": picture()}, "dataset_invalid"),
    "splits in capitals": ({"set/Train/1.png": picture(), "set/Test/1.png": picture()}, "dataset_invalid"),
    "nothing": ({"train/.DS_Store": b"x"}, "dataset_invalid"),
    "sixteen bits": ({"train/a/1.png": sixteen_bits()}, "dataset_invalid"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused(tmp_path: Path, name: str) -> None:
    members, code = HOSTILE[name]
    with pytest.raises(EngineError) as caught:
        load(tmp_path, archive(members))
    assert caught.value.code == code
    assert caught.value.hint
    assert not (tmp_path / "marker").exists()


def test_a_member_that_inflates_too_far_is_refused_before_it_is_read(tmp_path: Path) -> None:
    data = archive({"train/a/1.png": bytes(70 * 2**20)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(EngineError) as caught:
        load(tmp_path, data)
    assert caught.value.code == "decompression_limit_exceeded"


def test_a_member_that_holds_other_bytes_than_it_states_is_refused(tmp_path: Path) -> None:
    data = bytearray(archive({"train/a/1.png": picture()}))
    data[60] ^= 255
    with pytest.raises(EngineError) as caught:
        load(tmp_path, bytes(data))
    assert caught.value.code == "dataset_invalid"


def test_a_small_picture_is_no_crop(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="less than the crop"):
        load(tmp_path, archive({"train/a/1.png": picture(4, 4)}), images={"crop": [8, 6]})


def test_pictures_of_different_sizes_need_a_crop() -> None:
    with pytest.raises(ValueError, match="add crop"):
        DatasetMetadata.model_validate({"images": {"resize": 256}})


@pytest.mark.parametrize(("color", "samples"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_a_channel_are_refused_whatever_the_channels_are(color: int, samples: int, tmp_path: Path) -> None:
    data = png_file(6, 8, 16, color, RNG.bytes(6 * 8 * samples * 2))
    with pytest.raises(EngineError, match="more than 8 bits a channel"):
        load(tmp_path, archive({"train/cat/1.png": data}))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("images", [{"resize": [8, 6]}, {"resize": 9, "crop": [8, 6]}])
def test_large_jpeg_files_become_what_the_whole_picture_would(interpolation: str, images: dict[str, Any], tmp_path: Path) -> None:
    noise = np.asarray(Image.fromarray(RNG.integers(0, 256, (30, 41, 3), dtype=np.uint8)).resize((613, 450), Image.Resampling.BICUBIC))
    data = png(noise, "JPEG")
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC, "nearest": Image.Resampling.NEAREST}
    size = (6, 8) if "crop" not in images else (int(9 * 613 / 450), 9)
    whole = np.asarray(Image.open(io.BytesIO(data)).resize(size, filters[interpolation])).astype(int)
    top, left = round((size[1] - 8) / 2), round((size[0] - 6) / 2)
    expected = whole[top : top + 8, left : left + 6].transpose(2, 0, 1)
    stored = (
        load(tmp_path, archive({"train/cat/1.jpg": data}), images={**images, "interpolation": interpolation}).split("train").inputs["x"][0]
    )
    difference = np.abs(stored.astype(int) - expected)
    assert difference.max() <= (0 if interpolation == "nearest" else 3)
    assert difference.mean() <= 0.5


def test_folders_that_windows_parts_by_backslashes_are_folders(tmp_path: Path) -> None:
    members = {"train\\cat\\a.png": picture(), "train\\dog\\a.png": picture(), "test\\dog\\a.png": picture()}
    assert sniff(archive(members)[:4096], None) == "image_folder"
    data = load(tmp_path, archive(members))
    assert data.classes == ("cat", "dog")
    assert {name: split.targets["y"].tolist() for name, split in data.splits.items()} == {"train": [0, 1], "test": [1]}
