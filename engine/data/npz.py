"""The npz format: `x_train y_train x_test y_test [x_validation y_validation]`, several inputs as `x_train.<input>`.

Arrays that are stored uncompressed are memory-mapped where they lie in the file; deflated ones are inflated once, into a work
directory, and mapped from there. Nothing is unpickled.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.contract import limits
from engine.contract.errors import EngineError
from engine.data.dataset import Array, Data, Split
from engine.data.preprocessing import Preprocessing, read_preprocessing
from engine.files.archive import DAMAGED, open_archive
from engine.files.npz_members import NAMING, SPLITS, bomb, members_of, read_header
from engine.networks.network import Signature, TensorSpec

_CHUNK = 1 << 20


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
        with path.open("rb") as file, open_archive(file) as archive:
            members = members_of(archive)
            return {name: _map(path, archive, info, work) for name, info in members.items()}
    except DAMAGED as error:
        raise EngineError("dataset_invalid", "The file is not a whole npz archive.", hint="Write it with numpy.savez.") from error


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
    wide = stored.dtype.kind == "u" and stored.dtype.itemsize == 8
    labels = np.array(np.minimum(stored, np.uint64(2**62)) if wide else stored, dtype=np.int64)
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
        return None
    if len(names) == 1 and f"x_{split}" in given:
        return {names[0]: given[f"x_{split}"]}
    missing = [name for name in names if f"x_{split}.{name}" not in given]
    if missing:
        wanted = ", ".join(f"x_{split}.{name}" for name in names)
        raise EngineError("dataset_invalid", f"The model takes {wanted}; the dataset lacks {', '.join(missing)}.", hint=NAMING)
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
    header = read_header(archive, name, info)
    with archive.open(info) as stream:
        stream.read(header.header_bytes)
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
                raise bomb(name, f"more than the {expected} bytes of its shape")
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
