"""The npz format: `x_train y_train x_test y_test [x_validation y_validation]`, several inputs as `x_train.<input>`.

Arrays that are stored uncompressed are memory-mapped where they lie in the file; deflated ones are inflated once, into a work
directory, and mapped from there. Nothing is unpickled.
"""

from __future__ import annotations

import difflib
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine import limits
from engine.data.dataset import Array, Data, Split
from engine.data.preprocessing import Preprocessing, read_preprocessing
from engine.errors import EngineError
from engine.formats.npy_header import NpyHeader, read_npy_header
from engine.network import Signature, TensorSpec

SPLITS = ("train", "validation", "test")
_KEY = re.compile(rf"^(x|y)_({'|'.join(SPLITS)})(?:\.(.+))?$")
_CHUNK = 1 << 20
_NAMING = "Name the arrays x_train, y_train, x_test, y_test (x_validation, y_validation); several inputs as x_train.<input>."


def load_npz(path: Path, metadata: Mapping[str, Any], signature: Signature, work: Path) -> Data:
    """The arrays as splits for a network with this signature; see `engine.data.loading.load_dataset`."""
    arrays = read_arrays(path, work)
    names = [spec.name for spec in signature.inputs]
    preprocessing = read_preprocessing(metadata, names)
    outputs = signature.outputs[0].shape if signature.outputs else ()
    limit = outputs[1] if len(outputs) == 2 else None
    splits: dict[str, Split] = {}
    for name in SPLITS:
        inputs = _inputs_of(name, arrays, signature)
        if inputs is None:
            continue
        ready = {spec.name: _prepared(f"x_{name}", inputs[spec.name], spec, preprocessing) for spec in signature.inputs}
        count = len(next(iter(inputs.values())))
        splits[name] = Split(name, inputs, read_labels(arrays, name, count, limit), ready)
    labels = [split.labels for split in splits.values() if split.labels is not None]
    classes = class_names(arrays, metadata)
    num_classes = (limit or max(int(item.max()) for item in labels) + 1) if labels else None
    return Data(splits, num_classes, classes)


def read_arrays(path: Path, work: Path) -> dict[str, Array]:
    """Every array of the file that belongs to a split, and `classes`; memory-mapped and read-only.

    Raises `dataset_invalid`, `unsafe_format`, `archive_limit_exceeded`, `decompression_limit_exceeded`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = members_of(archive)
            return {name: _map(path, archive, info, work) for name, info in members.items()}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError, OverflowError) as error:
        raise EngineError("dataset_invalid", "The file is not a whole npz archive.", hint="Write it with numpy.savez.") from error


def members_of(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The members that are read, by array name; the limits on archives are checked here."""
    infos = archive.infolist()
    if len(infos) > limits.MAX_ARCHIVE_MEMBERS:
        raise EngineError("archive_limit_exceeded", f"The archive has {len(infos)} members, the limit is {limits.MAX_ARCHIVE_MEMBERS}.")
    found: dict[str, zipfile.ZipInfo] = {}
    total = 0
    for info in infos:
        name = info.filename.removesuffix(".npy")
        if not info.filename.endswith(".npy") or (_KEY.match(name) is None and name != "classes"):
            _refuse_near_miss(name)
            continue
        if name in found:
            raise EngineError("dataset_invalid", f"The archive holds {name!r} twice.")
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise EngineError(
                "dataset_invalid", f"Array {name!r} is encrypted or compressed in an unusual way.", hint="Write it with numpy.savez."
            )
        total += info.file_size
        if info.file_size > limits.FREE_INFLATE_BYTES and info.file_size > limits.MAX_INFLATE_RATIO * info.compress_size:
            raise _bomb(name, f"{info.file_size} bytes from {info.compress_size}")
        found[name] = info
    if total > limits.MAX_DATASET_BYTES:
        raise _bomb("all arrays", f"{total} bytes, the limit is {limits.MAX_DATASET_BYTES}")
    if not any(name.startswith("x_") for name in found):
        present = ", ".join(repr(info.filename.removesuffix(".npy")) for info in infos[:8])
        raise EngineError("dataset_invalid", f"No array holds examples; found {present or 'nothing'}.", hint=_NAMING)
    return found


def read_labels(arrays: Mapping[str, Array], split: str, count: int, limit: int | None) -> npt.NDArray[np.int64] | None:
    """The labels of a split as int64, checked against the number of examples and of the model's classes; None without any."""
    key = f"y_{split}"
    if key not in arrays:
        return None
    stored = arrays[key]
    if stored.ndim == 2 and stored.shape[1] == 1:
        stored = stored[:, 0]
    if stored.ndim != 1:
        hint = "One-hot labels become numbers with numpy.argmax(labels, axis=1)." if stored.ndim == 2 else "Store one number an example."
        raise EngineError("dataset_invalid", f"{key} has shape {tuple(arrays[key].shape)}; labels are one number an example.", hint=hint)
    if stored.dtype.kind not in "iub":
        raise EngineError("dataset_invalid", f"{key} is {stored.dtype}; labels are integers.", hint=f"Store {key}.astype('int64').")
    if len(stored) != count:
        raise EngineError(
            "dataset_invalid", f"x_{split} has {count} examples and {key} {len(stored)} labels.", hint="Give each example one label."
        )
    labels = np.array(stored, dtype=np.int64)
    if stored.dtype.kind == "u" and stored.dtype.itemsize == 8 and bool((np.asarray(stored) > np.uint64(2**62)).any()):
        labels = np.full(len(stored), 2**62, dtype=np.int64)
    low, high = int(labels.min()), int(labels.max())
    top = limit if limit is not None else limits.MAX_CLASSES
    if low < 0 or high >= top:
        wrong = int(np.flatnonzero((labels < 0) | (labels >= top))[0])
        raise EngineError(
            "dataset_invalid",
            f"{key} holds the label {int(labels[wrong])} (example {wrong}), outside of 0 to {top - 1}"
            + (", the classes of the model's output." if limit is not None else "."),
            hint="Number the classes from 0, and choose a model with as many outputs.",
            details={"array": key, "example": wrong, "label": int(labels[wrong])},
        )
    return labels


def class_names(arrays: Mapping[str, Array], metadata: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Names of the classes, from the array `classes` or from `metadata.classes`."""
    if "classes" in arrays and arrays["classes"].ndim == 1:
        return tuple(str(item) for item in arrays["classes"].tolist())
    stated = metadata.get("classes") or metadata.get("labels")
    return tuple(str(item) for item in stated) if isinstance(stated, list | tuple) else None


def _inputs_of(split: str, arrays: Mapping[str, Array], signature: Signature) -> dict[str, Array] | None:
    names = [spec.name for spec in signature.inputs]
    given = {key: array for key, array in arrays.items() if key == f"x_{split}" or key.startswith(f"x_{split}.")}
    if not given:
        if f"y_{split}" in arrays:
            raise EngineError("dataset_invalid", f"y_{split} has labels, but there is no x_{split}.", hint=_NAMING)
        return None
    if len(names) == 1 and f"x_{split}" in given:
        return {names[0]: given[f"x_{split}"]}
    missing = [name for name in names if f"x_{split}.{name}" not in given]
    if missing:
        wanted = ", ".join(f"x_{split}.{name}" for name in names)
        raise EngineError("dataset_invalid", f"The model takes {wanted}; the dataset lacks {', '.join(missing)}.", hint=_NAMING)
    result = {name: given[f"x_{split}.{name}"] for name in names}
    counts = {f"x_{split}.{name}": len(array) for name, array in result.items()}
    if len(set(counts.values())) > 1:
        raise EngineError(
            "dataset_invalid", f"The inputs of split {split} differ in length: {counts}.", hint="Give each input every example."
        )
    return result


def _prepared(key: str, array: Array, spec: TensorSpec, preprocessing: Mapping[str, Any]) -> Preprocessing:
    ready = Preprocessing(preprocessing[spec.name], array.shape[1:], spec)
    if array.dtype.kind == "f" and ready.dtype.kind in "iu":
        raise EngineError("dataset_invalid", f"{key} is {array.dtype}, but input {spec.name!r} takes {spec.dtype}.", hint="Store integers.")
    return ready


def _map(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, work: Path) -> Array:
    name = info.filename.removesuffix(".npy")
    with archive.open(info) as stream:
        header = read_npy_header(stream, name)
        _check_header(name, header, info)
        dtype, order = np.dtype(header.descr), "F" if header.fortran_order else "C"
        if name == "classes" or header.data_bytes == 0:
            raw = stream.read(header.data_bytes)
            return np.frombuffer(raw, dtype=dtype).reshape(header.shape, order=order)  # type: ignore[call-overload,no-any-return]
        if info.compress_type == zipfile.ZIP_STORED:
            source, offset = path, _data_offset(path, info) + header.header_bytes
        else:
            work.mkdir(parents=True, exist_ok=True)
            source, offset = work / f"{len(list(work.iterdir()))}-{info.CRC:08x}.raw", 0
            _inflate(stream, source, header.data_bytes, name)
    array: Array = np.memmap(source, dtype=dtype, mode="r", offset=offset, shape=header.shape, order=order)  # type: ignore[call-overload]
    if dtype.kind == "f":
        _check_finite(name, array)
    return array


def _check_header(name: str, header: NpyHeader, info: zipfile.ZipInfo) -> None:
    if header.header_bytes + header.data_bytes != info.file_size:
        raise EngineError("dataset_invalid", f"Array {name!r} says shape {header.shape}, which does not match its {info.file_size} bytes.")
    if name == "classes":
        if header.kind not in "UiuS" or header.data_bytes > limits.MAX_HEADER_BYTES:
            raise EngineError("dataset_invalid", "The array 'classes' has to hold short strings.")
        return
    if header.kind not in "biuf":
        raise EngineError("dataset_invalid", f"Array {name!r} is {header.descr}; numbers are needed.", hint="Store integers or floats.")
    if not header.shape or header.shape[0] == 0 or 0 in header.shape:
        raise EngineError("dataset_invalid", f"Array {name!r} of shape {header.shape} has no examples.")


def _data_offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: its local header has lengths of its own."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        local = file.read(30)
    if local[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile("no local header")
    offset = info.header_offset + 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    if offset + info.compress_size > path.stat().st_size:
        raise zipfile.BadZipFile("member reaches past the end")
    return offset


def _inflate(stream: Any, target: Path, expected: int, name: str) -> None:
    """Write exactly `expected` bytes; what the archive claims about itself is not believed."""
    written = 0
    with target.open("wb") as file:
        while chunk := stream.read(_CHUNK):
            written += len(chunk)
            if written > expected:
                raise _bomb(name, f"more than the {expected} bytes of its shape")
            file.write(chunk)
    if written != expected:
        raise EngineError("dataset_invalid", f"Array {name!r} ends after {written} of {expected} bytes.")


def _check_finite(name: str, array: Array) -> None:
    rows = max(1, (_CHUNK * 8) // max(1, array[:1].nbytes))
    for start in range(0, len(array), rows):
        finite = np.isfinite(array[start : start + rows])
        if not finite.all():
            wrong = start + int(np.flatnonzero(~finite.reshape(len(finite), -1).all(axis=1))[0])
            raise EngineError(
                "dataset_invalid", f"Example {wrong} of {name!r} holds NaN or infinity.", hint="Clean the data before uploading it."
            )


def _refuse_near_miss(name: str) -> None:
    """An array that is almost a split's, such as X_train or x_val, is a slip of the pen and not something to leave out silently."""
    known = [f"{side}_{split}" for side in "xy" for split in SPLITS]
    plain = name.split(".", maxsplit=1)[0].lower()
    match = {"x_val": "x_validation", "y_val": "y_validation", "x_valid": "x_validation", "y_valid": "y_validation"}.get(plain)
    close = [match] if match else difflib.get_close_matches(plain, known, n=1, cutoff=0.85)
    if close:
        raise EngineError("dataset_invalid", f"Array {name!r} is not read; did you mean {close[0]!r}?", hint=_NAMING)


def _bomb(name: str, figures: str) -> EngineError:
    return EngineError(
        "decompression_limit_exceeded",
        f"{name!r} inflates to {figures}.",
        hint="Upload the arrays uncompressed (numpy.savez).",
        category="user",
    )
