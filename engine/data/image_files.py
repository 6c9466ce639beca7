"""Pictures as arrays of bytes, in the size that `metadata.images` states or the network has: one decoded picture is in memory at a time.

Only JPEG and PNG decoders are asked, and only after the size that the header states was looked at.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from engine.contract import limits
from engine.contract.arrangement import preprocessing_of_only
from engine.contract.errors import EngineError
from engine.contract.images import ImagesSpec
from engine.contract.metadata import DatasetMetadata
from engine.data.archived import content, unreadable
from engine.data.stored import Array
from engine.files.archive import printable
from engine.networks.network import Signature

FORMATS = ("JPEG", "PNG")
_MODES = {1: "L", 3: "RGB"}
_EIGHT_BITS = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}
"""Modes of Pillow that hold bytes; converting others would clip their values."""
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC, "nearest": Image.Resampling.NEAREST}
_RANK = 4
_DECODED_LARGER = 4
"""How many times as large as wanted a JPEG file is decoded at least, where it is larger: what is decoded smaller than it is differs by then no more
than rounding does from the whole picture brought to that size."""


@dataclass(frozen=True)
class Form:
    """What every picture is made to be."""

    spec: ImagesSpec
    height: int
    width: int
    channels: int
    axes: str
    """Order in which an example is stored: HWC, CHW or HW."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example."""
        sizes = {"H": self.height, "W": self.width, "C": self.channels}
        return tuple(sizes[axis] for axis in self.axes)


def form_of(metadata: DatasetMetadata, signature: Signature | None, archive: zipfile.ZipFile, infos: Sequence[zipfile.ZipInfo]) -> Form:
    """What every picture is made to be. Raises `shape_mismatch`, `dataset_invalid`, `decompression_limit_exceeded`."""
    spec = metadata.images or ImagesSpec()
    wanted = _of_network(signature)
    first: tuple[int | None, int | None, int | None] = (None, None, None)
    if spec.size is None and None in wanted[:2]:
        # The network leaves its sizes open, or there is none: the first picture shows a size, to which all are brought.
        with opened(archive, infos[0]) as image:
            first = (image.height, image.width, 1 if image.mode in ("1", "L", "LA") else 3)
    height, width = spec.size or (wanted[0] or first[0] or 1, wanted[1] or first[1] or 1)
    channels = spec.channels or wanted[2] or first[2] or 3
    if channels not in _MODES:
        raise EngineError(
            "shape_mismatch", f"The network's input has {channels} channels, and pictures have 1 or 3.", hint="Upload arrays (npz)."
        )
    form = Form(spec, height, width, channels, _axes(metadata, signature, channels))
    total = len(infos) * height * width * channels
    if total > limits.MAX_DATASET_BYTES:
        raise EngineError(
            "decompression_limit_exceeded",
            f"{len(infos)} pictures of {height}×{width} have {total} bytes, the limit is {limits.MAX_DATASET_BYTES}.",
            hint="State a smaller size in metadata.images.",
        )
    return form


def _of_network(signature: Signature | None) -> tuple[int | None, int | None, int | None]:
    """Height, width and channels of a network's only input, as far as they are fixed."""
    if signature is None or len(signature.inputs) != 1:
        return None, None, None
    shape = signature.inputs[0].shape
    if len(shape) != _RANK:
        return None, None, None
    return (shape[2], shape[3], shape[1]) if _channels_first(shape) else (shape[1], shape[2], shape[3])


def _channels_first(shape: Sequence[int | None]) -> bool:
    return shape[1] in _MODES or shape[3] not in _MODES


def _axes(metadata: DatasetMetadata, signature: Signature | None, channels: int) -> str:
    """What the layout of the dataset's metadata says; without one, what the network's input has."""
    stated = preprocessing_of_only(metadata)
    if stated is not None and stated.layout is not None:
        axes = stated.layout[1:]
        if set(axes) != ({"H", "W"} if channels == 1 and "C" not in axes else {"H", "W", "C"}):
            raise EngineError(
                "dataset_invalid", f"The layout {stated.layout} is not one of pictures.", hint="State NHWC, or leave it out: it is known."
            )
        return axes
    shape = signature.inputs[0].shape if signature is not None and len(signature.inputs) == 1 else ()
    return "CHW" if len(shape) == _RANK and _channels_first(shape) else "HWC"


def written(archive: zipfile.ZipFile, infos: Sequence[zipfile.ZipInfo], form: Form, work: Path) -> Array:
    """The pictures, decoded one after the other into a scratch file below `work` that is mapped."""
    work.mkdir(parents=True, exist_ok=True)
    target = work / f"{len(list(work.iterdir()))}-pictures.raw"
    with target.open("wb") as file:
        for info in infos:
            file.write(np.ascontiguousarray(decoded(archive, info, form)).data)
    return np.memmap(target, dtype=np.uint8, mode="r", shape=(len(infos), *form.shape))


def decoded(archive: zipfile.ZipFile, info: zipfile.ZipInfo, form: Form) -> npt.NDArray[np.uint8]:
    """One picture, resized, cut, in the order of `form.axes`. Raises `dataset_invalid`, `decompression_limit_exceeded`."""
    name = printable(info.filename)
    with opened(archive, info) as image:
        if image.mode not in _EIGHT_BITS or stored_mode(image).endswith("16B"):
            raise EngineError(
                "dataset_invalid",
                f"{name!r} has more than 8 bits a channel ({stored_mode(image) or image.mode}).",
                hint="Convert it to 8 bits, or upload arrays (npz).",
            )
        height, width = resized(image.height, image.width, form)
        try:
            # A JPEG decoder makes a smaller picture faster; single pixels of it are means, which `nearest` must not take.
            least = (_DECODED_LARGER * width, _DECODED_LARGER * height)
            drafted = None if form.spec.interpolation == "nearest" else image.draft(None, least)
            plain = image.convert(_MODES[form.channels])
        except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:
            raise unreadable(name, str(error)) from error
    if (plain.height, plain.width) != (height, width):
        plain = plain.resize((width, height), _FILTERS[form.spec.interpolation], box=None if drafted is None else drafted[1])
    array = np.asarray(plain, dtype=np.uint8)
    top, left = corner(height, width, form)
    if top < 0 or left < 0:
        raise EngineError(
            "dataset_invalid",
            f"{name!r} has {height}×{width} pixels, less than the crop of {form.height}×{form.width}.",
            hint="State a larger resize in metadata.images.",
        )
    array = array[top : top + form.height, left : left + form.width]
    if "C" not in form.axes:
        return array
    array = array.reshape(form.height, form.width, form.channels)
    return array.transpose(["HWC".index(axis) for axis in form.axes])


def resized(height: int, width: int, form: Form) -> tuple[int, int]:
    """Height and width after the resize, before the cut; of a longer side the whole part, as torchvision has it."""
    resize = form.spec.resize
    if resize is None:
        return (height, width) if form.spec.crop is not None else (form.height, form.width)
    if isinstance(resize, tuple):
        return resize
    shorter = min(height, width)
    return int(resize * height / shorter), int(resize * width / shorter)


def corner(height: int, width: int, form: Form) -> tuple[int, int]:
    """Top and left of the part that is cut out of a resized picture; negative where it is too small."""
    return tuple(round((have - wanted) / 2) if have >= wanted else -1 for have, wanted in ((height, form.height), (width, form.width)))  # type: ignore[return-value]  # of two


def stored_mode(image: Image.Image) -> str:
    """How a PNG file stores its pixels, such as `RGB;16B` or `L;4`; of other files nothing."""
    tiles = getattr(image, "tile", None)
    return str(tiles[0][3]) if image.format == "PNG" and tiles else ""


def opened(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Image.Image:
    """The picture, of which the header alone was read."""
    name = printable(info.filename)
    data = content(archive, info)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _bomb(name, "far too many pixels") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError) as error:
        raise unreadable(name, "no JPEG or PNG file, whatever its name says") from error
    if image.width * image.height > limits.MAX_IMAGE_PIXELS:
        raise _bomb(name, f"{image.height}×{image.width} pixels, the limit is {limits.MAX_IMAGE_PIXELS}")
    return image


def _bomb(name: str, figures: str) -> EngineError:
    return EngineError("decompression_limit_exceeded", f"{name!r} has {figures}.", hint="Upload smaller pictures.")
