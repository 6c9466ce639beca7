"""Reads an uploaded dataset, by its format, and makes it ready for a network."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from engine.contract.arrangement import check_kind, preprocessing_of
from engine.contract.errors import EngineError
from engine.contract.file_format import format_of
from engine.contract.metadata import DatasetMetadata, PreprocessingSpec
from engine.data.dataset import Data, Split
from engine.data.preprocessing import Preprocessing
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
    splits: dict[str, Split] = {}
    for name in stored.splits:
        inputs = _inputs_of(name, stored, signature)
        ready = {spec.name: _prepared(f"x_{name}", inputs[spec.name], spec, preprocessing) for spec in signature.inputs}
        splits[name] = Split(name, inputs, stored.targets(name), ready)
    classes = class_names(stored, metadata)
    return Data(splits, classes, stored.named | ({"y"} if classes else set()))


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
    if ready.scalar and array.size and (array != array.reshape(-1)[0]).any():
        raise EngineError(
            "dataset_invalid",
            f"Input {spec.name!r} is one number for all examples of a batch, and {key} holds different ones.",
            hint="Store the same number for every example.",
        )
    check_kind(key, array.dtype.name, spec.name, spec.dtype)
    _check_range(key, array, spec, ready)
    return ready


def _check_range(key: str, array: Array, spec: TensorSpec, ready: Preprocessing) -> None:
    """Raise `dataset_invalid` for values that the input's type does not hold: a cast would make other numbers of them, or infinity."""
    wide = ready.dtype.kind == "b" or (ready.dtype.kind == "f" and ready.dtype.itemsize > 2 and array.dtype.kind in "biu")
    if wide or (np.can_cast(array.dtype, ready.dtype) and ready.dtype != np.float16):
        return
    ends = np.stack([array.min(axis=0), array.max(axis=0)])
    if ready.dtype.kind == "f":
        with np.errstate(over="ignore"):
            held = bool(np.isfinite(ready(ends)).all())
    else:
        bounds = np.iinfo(ready.dtype)
        held = bounds.min <= int(ends.min()) and int(ends.max()) <= bounds.max
    if not held:
        raise EngineError(
            "dataset_invalid",
            f"{key} holds numbers from {ends.min():g} to {ends.max():g}, which input {spec.name!r} of {spec.dtype} cannot take.",
            hint="Store numbers in the range of the input's type.",
        )
