"""What every dataset format becomes: named splits of arrays that are preprocessed batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.contract.errors import EngineError
from engine.data.preprocessing import Preprocessing

Array = npt.NDArray[Any]
CARVED_FRACTION = 0.1


@dataclass(frozen=True, eq=False)
class Split:
    """Examples at rest, as they were stored (say uint8), and the preprocessing that a batch goes through.

    `inputs` has one array for each input of the network, examples first. With `chosen`, the split is the given examples of those
    arrays, in that order. `labels` are those of the split's examples, in its order; int64, or None.
    """

    name: str
    inputs: Mapping[str, Array]
    labels: npt.NDArray[np.int64] | None
    preprocessing: Mapping[str, Preprocessing]
    chosen: npt.NDArray[np.int64] | None = None

    @property
    def count(self) -> int:
        """Number of examples."""
        return len(self.chosen) if self.chosen is not None else len(next(iter(self.inputs.values())))

    def batch(self, indices: Sequence[int] | npt.NDArray[Any]) -> tuple[dict[str, Array], npt.NDArray[np.int64] | None]:
        """The given examples, preprocessed: arrays of shape (len(indices), ...) by input name, and their labels."""
        own = np.asarray(indices, dtype=np.int64)
        rows = own if self.chosen is None else self.chosen[own]
        arrays = {name: self.preprocessing[name](_rows(array, rows)) for name, array in self.inputs.items()}
        return arrays, None if self.labels is None else self.labels[own]

    def batches(self, batch_size: int) -> Iterator[tuple[dict[str, Array], npt.NDArray[np.int64] | None]]:
        """All examples in their order, `batch_size` at a time."""
        for start in range(0, self.count, batch_size):
            yield self.batch(np.arange(start, min(start + batch_size, self.count)))

    def take(self, indices: npt.NDArray[Any], name: str | None = None) -> Split:
        """A split of the given examples; no input is copied."""
        own = np.asarray(indices, dtype=np.int64)
        labels = None if self.labels is None else self.labels[own]
        return Split(name or self.name, self.inputs, labels, self.preprocessing, own if self.chosen is None else self.chosen[own])


@dataclass(frozen=True, eq=False)
class Data:
    """All splits of a dataset. `num_classes` counts the labels that may occur; None without labels."""

    splits: Mapping[str, Split]
    num_classes: int | None
    classes: tuple[str, ...] | None = None
    _carved: dict[tuple[float, int], tuple[Split, Split]] = field(default_factory=dict, repr=False)

    @property
    def labelled(self) -> bool:
        """Whether every split has labels."""
        return all(split.labels is not None for split in self.splits.values())

    def split(self, name: str) -> Split:
        """A stored split. Raises `dataset_invalid` where the dataset lacks it."""
        if name not in self.splits:
            present = ", ".join(self.splits)
            raise EngineError("dataset_invalid", f"The dataset has no {name} split, only {present}.", hint=f"Add x_{name} and y_{name}.")
        return self.splits[name]

    def train(self, fraction: float = CARVED_FRACTION, seed: int = 0) -> Split:
        """What may be trained on: the train split, less the validation examples where those were carved from it."""
        return self.split("train") if "validation" in self.splits else self._carve(fraction, seed)[0]

    def validation(self, fraction: float = CARVED_FRACTION, seed: int = 0) -> Split:
        """The validation split, or `fraction` of the train split chosen by `seed`: the same choice each time, class by class."""
        return self.splits["validation"] if "validation" in self.splits else self._carve(fraction, seed)[1]

    def calibration(self, samples: int, seed: int = 0) -> Split:
        """At most `samples` examples chosen by `seed` from train, else from validation; never from test."""
        source = self.splits.get("train") or self.splits.get("validation")
        if source is None:
            raise EngineError(
                "dataset_invalid",
                "The dataset has only a test split, and calibration never reads test examples.",
                hint="Add x_train (labels are not needed for calibration).",
            )
        order = np.random.default_rng([seed, 0xCA11B]).permutation(source.count)[:samples]
        return source.take(np.sort(order), "calibration")

    def _carve(self, fraction: float, seed: int) -> tuple[Split, Split]:
        key = (fraction, seed)
        if key not in self._carved:
            self._carved[key] = _carve(self.split("train"), fraction, seed)
        return self._carved[key]


def _carve(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """A stratified cut without labels lost: at least one example stays on either side."""
    if split.count < 2:
        raise EngineError("dataset_invalid", "The train split has fewer than two examples, so no validation examples can be taken from it.")
    rng = np.random.default_rng([seed, 0x5EED])
    order = rng.permutation(split.count)
    wanted = min(split.count - 1, max(1, round(split.count * fraction)))
    if split.labels is not None:
        by_class = order[np.argsort(split.labels[order], kind="stable")]
        picks = np.floor((np.arange(wanted) + 0.5) * split.count / wanted).astype(np.int64)
        held = by_class[picks]
    else:
        held = order[:wanted]
    mask = np.zeros(split.count, dtype=bool)
    mask[held] = True
    return split.take(np.flatnonzero(~mask)), split.take(np.flatnonzero(mask), "validation")


def _rows(array: Array, rows: npt.NDArray[np.int64]) -> Array:
    """Rows of an array; a run of neighbours is sliced, so that a memory map reads one piece."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and bool((np.diff(rows) == 1).all()):
        return array[rows[0] : rows[-1] + 1]
    return array[rows]
