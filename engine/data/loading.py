"""Reads an uploaded dataset, by its format, and makes it ready for a network."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.contract import limits
from engine.contract.errors import EngineError
from engine.contract.file_format import format_of
from engine.contract.metadata import DatasetMetadata, PreprocessingSpec
from engine.data.dataset import Data, Split
from engine.data.preprocessing import Preprocessing, preprocessing_of
from engine.data.stored import Array, Stored
from engine.networks.network import Signature, TensorSpec

ReadData = Callable[[Path, DatasetMetadata, Signature | None, Path], Stored]
"""`read` of `engine/data/<format>.py`: the file, what its owner declared about it, the network that it is read for (none where the file
is only looked into), and a directory for scratch files."""


def read_stored(path: Path, format: str, metadata: DatasetMetadata, signature: Signature | None, work: Path) -> Stored:
    """The columns of a dataset. Raises `unsupported_format`, `dataset_invalid`, `unsafe_format`, `decompression_limit_exceeded`."""
    read: ReadData = importlib.import_module(f"engine.data.{format_of(format, 'dataset').name}").read
    stored = read(path, metadata, signature, work)
    stored.check()
    return stored


def load_dataset(path: Path, format: str, metadata: DatasetMetadata, signature: Signature, work: Path) -> Data:
    """A dataset made ready for a network with this signature.

    `work` takes arrays that have to be inflated. Raises `dataset_invalid`, `unsafe_format`,
    `shape_mismatch` (examples that do not fit the network's inputs) and `decompression_limit_exceeded`.
    """
    stored = read_stored(path, format, metadata, signature, work)
    preprocessing = preprocessing_of(metadata, [spec.name for spec in signature.inputs])
    outputs = signature.outputs[0].shape if signature.outputs else ()
    limit = outputs[1] if len(outputs) == 2 else None
    splits: dict[str, Split] = {}
    for name in stored.splits:
        inputs = _inputs_of(name, stored, signature)
        ready = {spec.name: _prepared(f"x_{name}", inputs[spec.name], spec, preprocessing) for spec in signature.inputs}
        splits[name] = Split(name, inputs, read_labels(stored, name, limit), ready)
    labels = [split.labels for split in splits.values() if split.labels is not None]
    num_classes = (limit or max(int(item.max()) for item in labels) + 1) if labels else None
    return Data(splits, num_classes, class_names(stored, metadata))


def read_labels(stored: Stored, split: str, limit: int | None) -> npt.NDArray[np.int64] | None:
    """The labels of a split as int64, checked against the number of examples and of the model's classes; None without any."""
    key = f"y_{split}"
    column = stored.targets(split).get("y")
    if column is None:
        return None
    count = len(next(iter(stored.inputs(split).values())))
    shape = tuple(column.shape)
    if column.ndim == 2 and shape[1] == 1:
        column = column[:, 0]
    if column.ndim != 1:
        hint = "One-hot labels become numbers with numpy.argmax(labels, axis=1)." if column.ndim == 2 else "Store one number an example."
        raise EngineError("dataset_invalid", f"{key} has shape {shape}; labels are one number an example.", hint=hint)
    if column.dtype.kind not in "iub":
        raise EngineError("dataset_invalid", f"{key} is {column.dtype}; labels are integers.", hint=f"Store {key}.astype('int64').")
    if len(column) != count:
        raise EngineError(
            "dataset_invalid", f"x_{split} has {count} examples and {key} {len(column)} labels.", hint="Give each example one label."
        )
    wide = column.dtype.kind == "u" and column.dtype.itemsize == 8
    labels = np.array(np.minimum(column, np.uint64(2**62)) if wide else column, dtype=np.int64)
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


def class_names(stored: Stored, metadata: DatasetMetadata) -> tuple[str, ...] | None:
    """Names of the classes, from the file or else from `metadata.labels`."""
    return stored.classes or metadata.labels or None


def _inputs_of(split: str, stored: Stored, signature: Signature) -> dict[str, Array]:
    names = [spec.name for spec in signature.inputs]
    given = stored.inputs(split)
    if len(names) == 1 and "x" in given:
        return {names[0]: given["x"]}
    missing = [name for name in names if f"x.{name}" not in given]
    if missing:
        wanted = ", ".join(f"x_{split}.{name}" for name in names)
        raise EngineError(
            "dataset_invalid", f"The model takes {wanted}; the dataset lacks {', '.join(missing)}.", hint=stored.naming or None
        )
    return {name: given[f"x.{name}"] for name in names}


def _prepared(key: str, array: Array, spec: TensorSpec, preprocessing: Mapping[str, PreprocessingSpec]) -> Preprocessing:
    ready = Preprocessing(preprocessing[spec.name], array.shape[1:], spec)
    if array.dtype.kind == "f" and ready.dtype.kind in "iu":
        raise EngineError("dataset_invalid", f"{key} is {array.dtype}, but input {spec.name!r} takes {spec.dtype}.", hint="Store integers.")
    return ready
