"""What every dataset format becomes: named splits of arrays that are preprocessed batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.contract.errors import EngineError
from engine.data.pictures import Picture
from engine.data.preprocessing import Preprocessing
from engine.networks.network import Signature, TensorSpec

Array = npt.NDArray[Any]
CARVED_FRACTION = 0.1


@dataclass(frozen=True, eq=False)
class Split:
    """Examples at rest, as they were stored (say uint8), and the preprocessing that a batch goes through.

    `inputs` has one array for each input of the network, examples first. With `chosen`, the split is the given examples of those
    arrays, in that order. `targets` are arrays by name, `y` or `y.<output>`, as they were stored; what they mean is up to a task.
    """

    name: str
    inputs: Mapping[str, Array]
    targets: Mapping[str, Array]
    """Before anything was chosen: `batch` gives those of the split's own examples."""
    preprocessing: Mapping[str, Preprocessing]
    chosen: npt.NDArray[np.int64] | None = None
    added: tuple[TensorSpec, ...] = ()
    """Inputs that a step gave the network, with the value that stands in them; the dataset has none of these names."""

    @property
    def count(self) -> int:
        """Number of examples."""
        return len(self.chosen) if self.chosen is not None else len(next(iter(self.inputs.values())))

    @property
    def pictures(self) -> dict[str, Picture]:
        """Which inputs are pictures, by name."""
        return {name: picture for name, ready in self.preprocessing.items() if (picture := ready.picture) is not None}

    def batch(self, indices: Sequence[int] | npt.NDArray[Any]) -> tuple[dict[str, Array], dict[str, Array]]:
        """The given examples: preprocessed inputs by name, of shape (len(indices), ...), and their targets by name."""
        rows = self._rows(indices)
        stored = {name: self.preprocessing[name](_rows(array, rows)) for name, array in self.inputs.items()}
        return stored | {tensor.name: _full(tensor, len(rows)) for tensor in self.added}, self.targets_at(indices)

    def targets_at(self, indices: Sequence[int] | npt.NDArray[Any]) -> dict[str, Array]:
        """The targets of the given examples, by name."""
        rows = self._rows(indices)
        return {name: _rows(array, rows) for name, array in self.targets.items()}

    def batches(self, batch_size: int) -> Iterator[tuple[dict[str, Array], dict[str, Array]]]:
        """All examples in their order, `batch_size` at a time."""
        for start in range(0, self.count, batch_size):
            yield self.batch(np.arange(start, min(start + batch_size, self.count)))

    def take(self, indices: npt.NDArray[Any], name: str | None = None) -> Split:
        """A split of the given examples; nothing is copied."""
        return replace(self, name=name or self.name, chosen=self._rows(indices))

    def strata(self) -> npt.NDArray[np.int64] | None:
        """A class of every example, by which a part of them can be taken that is like the whole; None without such targets."""
        for target in self.targets.values():
            if target.dtype.kind in "iub" and target[0].size == 1:
                return np.asarray(_rows(target, self._rows(np.arange(self.count))), dtype=np.int64).reshape(-1)
        return None

    def _rows(self, indices: Sequence[int] | npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        own = np.asarray(indices, dtype=np.int64)
        return own if self.chosen is None else self.chosen[own]


@dataclass(frozen=True, eq=False)
class Data:
    """All splits of a dataset."""

    splits: Mapping[str, Split]
    classes: tuple[str, ...] | None = None
    named: frozenset[str] = frozenset()
    """Targets whose numbers stand for classes that have names."""
    _carved: dict[tuple[float, int], tuple[Split, Split]] = field(default_factory=dict, repr=False)

    def completed(self, signature: Signature) -> Data:
        """The same with what stands in inputs of `signature` that a step added and that the dataset does not have."""
        known = {name for split in self.splits.values() for name in split.inputs}
        added = tuple(tensor for tensor in signature.inputs if tensor.value is not None and tensor.name not in known)
        if all(split.added == added for split in self.splits.values()):
            return self
        return Data({name: replace(split, added=added) for name, split in self.splits.items()}, self.classes, self.named)

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

    def _carve(self, fraction: float, seed: int) -> tuple[Split, Split]:
        key = (fraction, seed)
        if key not in self._carved:
            self._carved[key] = _carve(self.split("train"), fraction, seed)
        return self._carved[key]


def _carve(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """A stratified cut that loses nothing: at least one example stays on either side."""
    if split.count < 2:
        raise EngineError("dataset_invalid", "The train split has fewer than two examples, so no validation examples can be taken from it.")
    rng = np.random.default_rng([seed, 0x5EED])
    order = rng.permutation(split.count)
    wanted = min(split.count - 1, max(1, round(split.count * fraction)))
    strata = split.strata()
    if strata is not None:
        by_class = order[np.argsort(strata[order], kind="stable")]
        picks = np.floor((np.arange(wanted) + 0.5) * split.count / wanted).astype(np.int64)
        held = by_class[picks]
    else:
        held = order[:wanted]
    mask = np.zeros(split.count, dtype=bool)
    mask[held] = True
    return split.take(np.flatnonzero(~mask)), split.take(np.flatnonzero(mask), "validation")


def _full(tensor: TensorSpec, count: int) -> Array:
    shape = [count if dim == 0 else size or 1 for dim, size in enumerate(tensor.shape)]
    return np.full(shape, tensor.value, tensor.dtype)


def _rows(array: Array, rows: npt.NDArray[np.int64]) -> Array:
    """Rows of an array; a run of neighbours is sliced, so that a memory map reads one piece."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and bool((np.diff(rows) == 1).all()):
        return array[rows[0] : rows[-1] + 1]
    return array[rows]
