"""Pictures and masks of a zip archive as arrays: each is decoded once, into scratch files that are mapped.

A mask goes through the resize and the cut of its picture, taking the nearest value: it names classes, which have no means.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from engine.contract.errors import EngineError
from engine.contract.masks import IGNORED, MasksSpec
from engine.contract.metadata import SPLITS, DatasetMetadata
from engine.data.archived import unreadable
from engine.data.image_files import Form, corner, form_of, opened, resized, stored_mode, written
from engine.data.stored import Array, Stored
from engine.data.tables import Scratch
from engine.files.archive import DAMAGED, open_archive, printable
from engine.files.image_masks import NAMING, Pair, pairs_of
from engine.networks.network import Signature

_MODES = ("1", "L", "P")
_BLACK_AND_WHITE = {0, 255}
_UNKNOWN = -1
_SPREAD = {"L;2": 85, "L;4": 17}
"""What the decoder multiplies the values of gray files of 2 and 4 bits by, so that white is 255."""


def read(path: Path, metadata: DatasetMetadata, signature: Signature | None, work: Path) -> Stored:
    """Pictures as `image_folder` reads them, and `y` (N, height, width) in uint8: class numbers, 255 where a place does not count.

    Raises `dataset_invalid`, `shape_mismatch`, `archive_limit_exceeded`, `decompression_limit_exceeded`.
    """
    spec = metadata.masks or MasksSpec()
    numbers = _Numbers(spec, len(metadata.labels))
    splits: dict[str, dict[str, Array]] = {}
    try:
        with path.open("rb") as file, open_archive(file) as archive:
            pairs = pairs_of(archive)
            form = form_of(metadata, signature, archive, [pair.picture for pair in pairs])
            for split in SPLITS:
                own = [pair for pair in pairs if pair.split == split]
                if not own:
                    continue
                splits[split] = {"x": written(archive, [pair.picture for pair in own], form, work)}
                if own[0].mask is not None:
                    splits[split]["y"] = _masks(archive, own, form, numbers, work)
    except DAMAGED as error:
        raise EngineError("dataset_invalid", "The file is not a whole zip archive.", hint="Zip the folder again.") from error
    if 255 in numbers.seen <= _BLACK_AND_WHITE and not spec.values:
        raise EngineError(
            "dataset_invalid",
            "All masks hold 0 and 255 alone: is 255 a class, or places that do not count?",
            hint="State metadata.masks.values: [0, 255] for two classes, or [0] for one.",
        )
    return Stored(splits, metadata.labels or None, open_sizes=True, naming=NAMING)


class _Numbers:
    """The number that each stored value stands for."""

    def __init__(self, spec: MasksSpec, classes: int) -> None:
        self.seen: set[int] = set()
        """All stored values of the masks that were read."""
        self._known = np.full(256, _UNKNOWN, dtype=np.int16)
        if not spec.values:
            self._known[: classes or 256] = np.arange(classes or 256)
        self._known[list(spec.ignored)] = IGNORED
        if spec.values:
            self._known[list(spec.values)] = np.arange(len(spec.values))

    def __call__(self, stored: npt.NDArray[np.uint8], name: str) -> npt.NDArray[np.int16]:
        """Class numbers. Raises `dataset_invalid` for a value that is no class."""
        self.seen.update(np.unique(stored).tolist())
        found = self._known[stored]
        if (found == _UNKNOWN).any():
            raise EngineError(
                "dataset_invalid",
                f"The mask {name!r} holds the value {int(stored[found == _UNKNOWN][0])}, which is no class.",
                hint="Name every value in metadata.masks.values or ignored, and every class in metadata.labels.",
            )
        return found


def _masks(archive: zipfile.ZipFile, pairs: Sequence[Pair], form: Form, numbers: _Numbers, work: Path) -> Array:
    split = pairs[0].split
    with Scratch(work, (form.height, form.width), np.uint8) as scratch:
        for pair in pairs:
            assert pair.mask is not None
            scratch.add(split, _aligned(numbers(_decoded(archive, pair, pair.mask), printable(pair.mask.filename)), form)[None])
    return scratch.mapped()[split]


def _decoded(archive: zipfile.ZipFile, pair: Pair, info: zipfile.ZipInfo) -> npt.NDArray[np.uint8]:
    """The stored values of a mask, which has the size of its picture."""
    name = printable(info.filename)
    with opened(archive, pair.picture) as picture:
        size = picture.size
    with opened(archive, info) as image:
        if image.format != "PNG" or image.mode not in _MODES:
            raise EngineError(
                "dataset_invalid",
                f"The mask {name!r} is {image.format} of mode {image.mode}; a mask is a PNG file of one byte a place, which is its class.",
                hint="Save it as gray (L) or with a palette (P), colours replaced by class numbers.",
            )
        if image.size != size:
            raise EngineError(
                "dataset_invalid",
                f"The mask {name!r} has {image.height}×{image.width} pixels, and its picture {size[1]}×{size[0]}.",
                hint="Save masks in the size of their pictures.",
            )
        spread = _SPREAD.get(stored_mode(image), 1)
        try:
            return np.asarray(image, dtype=np.uint8) // spread
        except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:
            raise unreadable(name, str(error)) from error


def _aligned(numbers: npt.NDArray[np.int16], form: Form) -> npt.NDArray[np.uint8]:
    """The class numbers at the places that the picture's pixels were taken from."""
    values = numbers.astype(np.uint8)
    height, width = resized(values.shape[0], values.shape[1], form)
    if values.shape != (height, width):
        values = np.asarray(Image.fromarray(values).resize((width, height), Image.Resampling.NEAREST))
    top, left = corner(height, width, form)
    return values[top : top + form.height, left : left + form.width]
