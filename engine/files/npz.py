"""Which arrays of an npz archive are read, and whether their headers are harmless; the standard library only."""

from __future__ import annotations

import difflib
import re
import zipfile
from typing import IO

from engine.contract import limits
from engine.contract.errors import EngineError
from engine.contract.file_format import FileFormat
from engine.contract.metadata import SPLITS
from engine.files.archive import DAMAGED, first_member, open_archive, printable
from engine.files.effort import spend
from engine.files.npy_header import NpyHeader, read_npy_header

NAMING = "Name the arrays x_train, y_train, x_test, y_test (x_validation, y_validation); several inputs as x_train.<input>; x_train_lengths for sequences one behind the other."
_KEY = re.compile(rf"^(x|y)_({'|'.join(SPLITS)})(_lengths)?(?:\.(.+))?$")
_NEAR_MISS_EFFORT = 100
_SHORT_NAMES = {"x_val": "x_validation", "y_val": "y_validation", "x_valid": "x_validation", "y_valid": "y_validation"}


def recognizes(head: bytes) -> bool:
    """Whether a file that begins so is an archive of arrays."""
    return (first_member(head) or "").endswith(".npy")


def check(stream: IO[bytes], size: int) -> None:
    """Check names, sizes and headers of all arrays; only the first bytes of each are inflated.

    Raises `dataset_invalid`, `unsafe_format`, `archive_limit_exceeded`, `decompression_limit_exceeded`, and `archive.DAMAGED`.
    """
    with open_archive(stream) as archive:
        for name, info in members_of(archive).items():
            read_header(archive, name, info)


def members_of(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The members that are read, by array name; the limits on archives are checked here."""
    infos = archive.infolist()
    found: dict[str, zipfile.ZipInfo] = {}
    total = 0
    for info in infos:
        name = info.filename.removesuffix(".npy")
        if not info.filename.endswith(".npy") or (_KEY.match(name) is None and name != "classes"):
            _refuse_near_miss(name)
            continue
        if name in found:
            raise EngineError("dataset_invalid", f"The archive holds {printable(name)!r} twice.")
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise EngineError(
                "dataset_invalid",
                f"Array {printable(name)!r} is encrypted or compressed in an unusual way.",
                hint="Write it with numpy.savez.",
            )
        total += info.file_size
        if info.file_size > limits.FREE_INFLATE_BYTES and info.file_size > limits.MAX_INFLATE_RATIO * info.compress_size:
            raise bomb(name, f"{info.file_size} bytes from {info.compress_size}")
        found[name] = info
    if total > limits.MAX_DATASET_BYTES:
        raise bomb("all arrays together", f"{total} bytes, the limit is {limits.MAX_DATASET_BYTES}")
    if not any(name.startswith("x_") for name in found):
        present = ", ".join(repr(printable(info.filename.removesuffix(".npy"))) for info in infos[:8])
        raise EngineError("dataset_invalid", f"No array holds examples; found {present or 'nothing'}.", hint=NAMING)
    for name in found:
        split = name[2:].split(".")[0]
        if split.endswith("_lengths"):
            if name.replace("_lengths", "", 1) not in found:
                raise EngineError(
                    "dataset_invalid",
                    f"{printable(name)} has lengths, but there is no {printable(name.replace('_lengths', '', 1))}.",
                    hint=NAMING,
                )
        elif name.startswith("y_") and not any(other == f"x_{split}" or other.startswith(f"x_{split}.") for other in found):
            raise EngineError("dataset_invalid", f"{printable(name)} has labels, but there is no x_{split}.", hint=NAMING)
    return found


def read_header(archive: zipfile.ZipFile, name: str, info: zipfile.ZipInfo) -> NpyHeader:
    """The header of one member, checked against the member's size and against what a dataset may hold."""
    shown = printable(name)
    try:
        with archive.open(info) as stream:
            header = read_npy_header(stream, shown)
    except DAMAGED as error:
        raise EngineError(
            "dataset_invalid", f"Array {shown!r} is damaged.", hint="Write the file with numpy.savez and upload it again."
        ) from error
    if header.header_bytes + header.data_bytes != info.file_size:
        raise EngineError("dataset_invalid", f"Array {shown!r} says shape {header.shape}, which does not match its {info.file_size} bytes.")
    if name == "classes":
        if header.kind not in "UiuS" or header.data_bytes > limits.MAX_HEADER_BYTES:
            raise EngineError("dataset_invalid", "The array 'classes' has to hold short strings.")
        return header
    is_named = header.kind in "US" and name.startswith("y_") and len(header.shape) == 1 and "_lengths" not in name
    if header.kind not in "biuf" and not is_named:
        raise EngineError("dataset_invalid", f"Array {shown!r} is {header.descr}; numbers are needed.", hint="Store integers or floats.")
    if not header.shape or 0 in header.shape:
        raise EngineError(
            "dataset_invalid", f"Array {shown!r} of shape {header.shape} has no examples.", hint="Leave the split out, or give it examples."
        )
    return header


def bomb(name: str, figures: str) -> EngineError:
    """The refusal of an archive that inflates to too much."""
    return EngineError(
        "decompression_limit_exceeded", f"{printable(name)!r} inflates to {figures}.", hint="Upload the arrays uncompressed (numpy.savez)."
    )


def _refuse_near_miss(name: str) -> None:
    """An array that is almost a split's, such as X_train or x_val, is a slip of the pen and not something to leave out silently."""
    spend(_NEAR_MISS_EFFORT)
    known = [f"{side}_{split}" for side in "xy" for split in SPLITS]
    plain = name.split(".", maxsplit=1)[0].lower()[:64]
    close = [_SHORT_NAMES[plain]] if plain in _SHORT_NAMES else difflib.get_close_matches(plain, known, n=1, cutoff=0.85)
    if close:
        raise EngineError("dataset_invalid", f"Array {printable(name)!r} is not read; did you mean {close[0]!r}?", hint=NAMING)


FORMAT = FileFormat("npz", "dataset", (".npz",), recognizes, check)
