"""Masks stay on the pixels of their pictures, and what their values mean is never guessed."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.contract.errors import EngineError
from engine.contract.metadata import DatasetMetadata
from engine.data.loading import load_dataset
from engine.files.magic import check_file, sniff
from engine.jobs.dataset_inspection import inspect_dataset
from engine.networks.network import Signature, TensorSpec
from tests.engine.data.test_image_folder import archive, png, png_file

SIGNATURE = Signature((TensorSpec("x", (None, 3, 8, 8)),), (TensorSpec("y", (None, 3, 8, 8)),))


def marked(height: int = 16, width: int = 24, value: int = 2, seed: int = 0) -> tuple[bytes, bytes]:
    """A picture with a bright rectangle, and the mask of that rectangle."""
    rng = np.random.default_rng(seed)
    top, left = int(rng.integers(0, height // 2)), int(rng.integers(0, width // 2))
    picture, mask = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
    picture[top : top + height // 2, left : left + width // 2] = 255
    mask[top : top + height // 2, left : left + width // 2] = value
    return png(picture), png(mask)


def good(count: int = 4) -> dict[str, bytes]:
    found = {}
    for index in range(count):
        picture, mask = marked(seed=index)
        split = "train" if index else "val"
        found[f"{split}/images/{index}.png"], found[f"{split}/masks/{index}.png"] = picture, mask
    return found


def load(tmp_path: Path, members: dict[str, bytes], **metadata: Any) -> Any:
    path = tmp_path / "masks.zip"
    path.write_bytes(archive(members))
    with path.open("rb") as file:
        check_file(file, "image_masks")
    work = tmp_path / f"work{len(list(tmp_path.iterdir()))}"
    return load_dataset(path, "image_masks", DatasetMetadata.model_validate(metadata), SIGNATURE, work)


@pytest.mark.parametrize("images", [{}, {"resize": 12, "crop": [8, 8]}, {"resize": [8, 8], "interpolation": "nearest"}, {"crop": [8, 8]}])
def test_a_mask_covers_the_pixels_of_its_picture(tmp_path: Path, images: dict[str, Any]) -> None:
    data = load(tmp_path, good(), images=images)
    for split, count in (("train", 3), ("validation", 1)):
        inputs, targets = data.split(split).batch(range(count))
        assert inputs["x"].shape == (count, 3, 8, 8)
        assert set(np.unique(targets["y"])) == {0, 2}
        bright, dark = inputs["x"][:, 0] > 200, inputs["x"][:, 0] < 55
        assert (targets["y"][bright] == 2).all()
        assert (targets["y"][dark] == 0).all()
        assert (bright | dark).mean() > 0.6


def test_the_other_order_of_folders_palettes_and_names_of_masks(tmp_path: Path) -> None:
    mask = marked()[1]
    palette = Image.fromarray(np.asarray(Image.open(io.BytesIO(mask))), "P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    members = {"set/images/train2017/a.jpg": png(picture=None, kind="JPEG"), "set/annotations/train2017/a_mask.png": _saved(palette)}
    found = load(tmp_path, members)
    assert found.split("train").count == 1
    assert set(np.unique(found.split("train").batch([0])[1]["y"])) == {0, 2}


def _saved(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def test_values_are_numbered_as_stated_and_others_are_ignored(tmp_path: Path) -> None:
    mask = np.zeros((16, 24), np.uint8)
    mask[:, 8:16], mask[:, 16:] = 128, 77
    members = {"images/a.png": marked()[0], "masks/a.png": png(mask)}
    found = load(tmp_path, members, masks={"values": [128, 0], "ignored": [77]})
    row = found.split("train").batch([0])[1]["y"][0, 0].tolist()
    assert sorted(set(row), key=row.index) == [1, 0, 255]


def test_black_and_white_is_asked_about(tmp_path: Path) -> None:
    members = {"images/a.png": marked()[0], "masks/a.png": marked(value=255)[1]}
    with pytest.raises(EngineError, match=r"0 and 255 alone"):
        load(tmp_path, members)
    assert set(np.unique(load(tmp_path, members, masks={"values": [0, 255]}).split("train").batch([0])[1]["y"])) == {0, 1}
    assert set(np.unique(load(tmp_path, members, masks={"values": [0]}).split("train").batch([0])[1]["y"])) == {0, 255}


WRONG = {
    "no mask": ({"train/images/b.png": marked()[0]}, {}, "'b' of train has no mask"),
    "no picture": ({"train/masks/b.png": marked()[1]}, {}, "'b' of train has no picture"),
    "another size": ({"train/images/b.png": marked()[0], "train/masks/b.png": marked(8, 12)[1]}, {}, "8×12 pixels, and its picture 16×24"),
    "colours": ({"train/images/b.png": marked()[0], "train/masks/b.png": marked()[0]}, {}, "mode RGB"),
    "jpeg": ({"train/images/b.png": marked()[0], "train/masks/b.jpg": b"x"}, {}, "no PNG file"),
    "no class": ({}, {"labels": ["sky", "sea"]}, "holds the value 2"),
    "no stated class": ({}, {"masks": {"values": [0, 1]}}, "holds the value 2"),
    "elsewhere": ({"train/other/b.png": marked()[0]}, {}, "no folder of images or masks"),
    "two of a name": ({"train/images/1.jpg": b"x"}, {}, "another ending"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(tmp_path: Path, name: str) -> None:
    members, metadata, message = WRONG[name]
    with pytest.raises(EngineError, match=message) as caught:
        load(tmp_path, {**good(), **members}, **metadata)
    assert caught.value.code == "dataset_invalid"


def test_classes_and_masks_are_not_mixed_up(tmp_path: Path) -> None:
    data = archive(good())
    assert sniff(data[:4096], None) == "image_masks"
    assert sniff(data[:4096], "image_folder") == "image_folder"
    (tmp_path / "a.zip").write_bytes(data)
    with (tmp_path / "a.zip").open("rb") as file, pytest.raises(EngineError) as caught:
        check_file(file, "image_folder")
    assert caught.value.hint == "Upload it with format=image_masks."
    faces = archive({"train/mask/1.png": marked()[0], "train/no_mask/1.png": marked()[0]})
    assert sniff(faces[:4096], None) == "image_folder"
    assert inspect_dataset(tmp_path / "a.zip", "image_masks", DatasetMetadata(), tmp_path / "w").columns[1].shape == (None, None)


@pytest.mark.parametrize("bits", [2, 4])
def test_gray_masks_of_few_bits_hold_the_numbers_that_are_stored(bits: int, tmp_path: Path) -> None:
    numbers = np.arange(64, dtype=np.uint8).reshape(8, 8) % 3
    packed = np.zeros((8, 8 * bits // 8), np.uint8)
    for place in range(8):
        packed[:, place * bits // 8] |= numbers[:, place] << (8 - bits - place * bits % 8)
    mask = png_file(8, 8, bits, 0, packed.tobytes())
    stored = load(tmp_path, {"train/images/1.png": png(np.zeros((8, 8, 3), np.uint8)), "train/masks/1.png": mask})
    np.testing.assert_array_equal(stored.split("train").targets["y"][0], numbers)
