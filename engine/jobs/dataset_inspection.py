"""What an uploaded dataset is: the result of its inspection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.contract import limits
from engine.contract.arrangement import preprocessing_of
from engine.contract.errors import EngineError
from engine.contract.inspection import (
    ArrayPreview,
    DatasetInspection,
    ExamplePreview,
    Histogram,
    Leak,
    SplitInfo,
    StandardizationInfo,
    TensorInfo,
)
from engine.contract.metadata import DatasetMetadata
from engine.data.leaks import leaks
from engine.data.loading import class_names, read_stored

if TYPE_CHECKING:
    from engine.data.stored import Array, Stored

_PREVIEW_EXAMPLES = 8
_PREVIEW_ELEMENTS = 1024
_HISTOGRAM_CLASSES = 1000


def inspect_dataset(path: Path, format: str, metadata: DatasetMetadata, work: Path) -> DatasetInspection:
    """Splits, columns, classes and a preview of a dataset. Raises the codes of `load_dataset` that need no model."""
    stored = read_stored(path, format, metadata, None, work)
    named = dict.fromkeys(name.partition(".")[2] for split in stored.splits for name in stored.inputs(split) if "." in name)
    if named:
        preprocessing_of(metadata, list(named))
    splits: dict[str, SplitInfo] = {}
    preview: dict[str, tuple[ExamplePreview, ...]] = {}
    counted: dict[str, dict[int, int]] = {}
    columns: dict[str, TensorInfo] = {}
    seen: set[int] = set()
    for split in stored.splits:
        inputs = stored.inputs(split)
        targets = stored.targets(split)
        count = len(next(iter(inputs.values())))
        splits[split] = SplitInfo(examples_count=count, labelled=bool(targets))
        for name, array in (inputs | targets).items():
            shape = (None,) * (array.ndim - 1) if stored.open_sizes or name in stored.opened else array.shape[1:]
            column = TensorInfo(name=name, shape=shape, dtype=array.dtype.name)
            if columns.setdefault(name, column).shape != column.shape:
                raise EngineError(
                    "dataset_invalid", f"{name} has examples of shape {list(column.shape)} in {split}, {list(columns[name].shape)} before."
                )
        numbers = class_numbers(targets)
        if numbers is not None:
            found, counts = np.unique(numbers, return_counts=True)
            counted[split] = dict(zip(found.tolist(), counts.tolist(), strict=True))
            seen.update(counted[split])
        preview[split] = tuple(_example(index, inputs, targets) for index in range(min(count, _PREVIEW_EXAMPLES)))
    names = class_names(stored, metadata)
    shared = leaks(stored)
    return DatasetInspection(
        splits=splits,
        columns=tuple(columns.values()),
        classes=(tuple(names) if names else tuple(sorted(seen))) if seen else None,
        labels=all(split.labelled for split in splits.values()),
        preview=preview,
        histogram=_histogram(counted, seen, names),
        leaks=shared or (),
        notes=(*stored.notes, *_notes(stored, shared)),
        standardization=None if stored.standardization is None else StandardizationInfo(**asdict(stored.standardization)),
    )


def _histogram(counted: Mapping[str, Mapping[int, int]], seen: Collection[int], names: Sequence[str] | None) -> Histogram | None:
    """Examples of each class in each split, zeros included; None without classes, or with more of them than are shown."""
    numbers = range(len(names)) if names and max(seen, default=0) < len(names) else sorted(seen)
    if not counted or len(numbers) > _HISTOGRAM_CLASSES:
        return None
    shown = {number: names[number] if names and number < len(names) else str(number) for number in numbers}
    often = Counter(shown.values())
    keys = {number: name if often[name] == 1 else f"{name} ({number})" for number, name in shown.items()}
    return {split: {key: counts.get(number, 0) for number, key in keys.items()} for split, counts in counted.items()}


def _notes(stored: Stored, shared: Sequence[Leak] | None) -> Iterator[str]:
    if shared is None:
        yield "The dataset is too large to be searched for examples that stand in two splits."
    for leak in shared or ():
        first, second = leak.splits
        yield (
            f"{leak.examples_count} of the {leak.of_count} {second} examples are the same, byte for byte, as {first} examples: "
            f"figures measured on {second} are better than they would be on new data."
        )


def class_numbers(targets: Mapping[str, Array]) -> Array | None:
    """Targets that number classes, one an example; None where they are something else."""
    stored = targets.get("y")
    if (
        stored is None
        or stored.dtype.kind not in "iub"
        or stored[0].size != 1
        or int(stored.max()) >= limits.MAX_CLASSES
        or int(stored.min()) < 0
    ):
        return None
    return stored.reshape(-1)


def _example(index: int, inputs: Mapping[str, Array], targets: Mapping[str, Array]) -> ExamplePreview:
    numbers = class_numbers(targets)
    return ExamplePreview(
        index=index,
        label=None if numbers is None else int(numbers[index]),
        inputs={name: _summary(array[index]) for name, array in inputs.items()},
        targets={name: _summary(array[index]) for name, array in targets.items()} if numbers is None and targets else None,
    )


def _summary(stored: Array) -> ArrayPreview:
    example = np.asarray(stored)
    return ArrayPreview(
        minimum=example.min().item(),
        maximum=example.max().item(),
        mean=float(example.mean()),
        values=example.tolist() if example.size <= _PREVIEW_ELEMENTS else None,
    )
