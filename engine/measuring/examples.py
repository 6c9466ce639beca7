"""What a published file is tried on: a split of the dataset, or random inputs where there is none. Numpy only."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.contract.errors import EngineError
from engine.formats.onnx import runtime
from engine.formats.onnx.runtime import Feed
from engine.networks.network import OPEN_SIZES, Signature

if TYPE_CHECKING:
    from engine.data.dataset import Data

RANDOM = "random"
"""Stands in place of the split's name in metrics that were measured on random inputs."""


@dataclass(frozen=True)
class Batch:
    """Inputs by name, targets by name, and how many of the examples count (the rest fills up a fixed batch)."""

    feed: Feed
    targets: Mapping[str, NDArray[Any]]
    """Of the examples that count."""
    count: int


class Examples(Protocol):
    """Batches of inputs for one network; the same ones on every call."""

    name: str
    count: int

    def batches(self, size: int) -> Iterator[Batch]:
        """All examples in order."""

    def feed(self, size: int) -> Feed:
        """One batch of just `size` examples, repeated where there are not enough."""

    def feeds(self, size: int, seed: int) -> Iterator[Feed]:
        """Endless batches of just `size` examples, drawn by `seed`: all of them once before any comes again."""


class SplitExamples:
    """A split of an uploaded dataset."""

    def __init__(self, name: str, split: Any, session: runtime.Session) -> None:
        self.name = name
        self.count = int(split.count)
        self._split = split
        self._fixed = fixed_batch(session)

    def batches(self, size: int) -> Iterator[Batch]:
        """All examples in order."""
        remaining = self.count
        for indices in runtime.batches(np.arange(self.count), size, self._fixed):
            count = min(remaining, len(indices))
            feed, targets = self._split.batch(indices)
            yield Batch(feed, {name: array[:count] for name, array in targets.items()}, count)
            remaining -= count

    def feed(self, size: int) -> Feed:
        """One batch of just `size` examples."""
        feed, _ = self._split.batch(np.arange(size) % self.count)
        return dict(feed)

    def feeds(self, size: int, seed: int) -> Iterator[Feed]:
        """Endless batches of just `size` examples."""
        rng = np.random.default_rng(seed)
        waiting = np.empty(0, dtype=np.int64)
        while True:
            while len(waiting) < size:
                waiting = np.concatenate([waiting, rng.permutation(self.count)])
            feed, _ = self._split.batch(waiting[:size])
            yield dict(feed)
            waiting = waiting[size:]


class RandomExamples:
    """Seeded random inputs of the shapes and types that a file declares.

    Floating-point inputs are standard normal, integers are 0 or 1 (valid as token, mask and flag), booleans are drawn evenly.
    Dimensions with the same name as the first one of the first input are the batch; other open ones get the size that `signature`
    states for them (the owner's `input_specs`, which an uploaded file does not hold), or else the first one for which the network runs.
    Inputs that are `added` hold one value.

    Raises:
        EngineError: `shape_mismatch` where no size makes the network run.
    """

    name = RANDOM

    def __init__(
        self,
        session: runtime.Session,
        *,
        seed: int,
        count: int = 64,
        signature: Signature | None = None,
        added: Mapping[str, float] | None = None,
    ) -> None:
        self.count = count
        self._added = added or {}
        self._seed = seed
        self._inputs = session.get_inputs()
        self._stated = {} if signature is None else {item.name: item.shape for item in signature.inputs}
        self._fixed = fixed_batch(session)
        shape = self._inputs[0].shape if self._inputs else []
        self._batch_name = shape[0] if shape and not isinstance(shape[0], int) else None
        self._open_size = self._running_size(session)

    def batches(self, size: int) -> Iterator[Batch]:
        """All examples in order; the last batch is filled up to the fixed batch of the network, if it has one.

        Without a fixed batch the examples are the same whatever `size` is: a file may be scored in other batches than its baseline.
        """
        if self._fixed:
            for start in range(0, self.count, self._fixed):
                yield Batch(self._draw(self._fixed, start, self._open_size), {}, min(self._fixed, self.count - start))
            return
        everything = self._draw(self.count, 0, self._open_size)
        for start in range(0, self.count, size):
            part = slice(start, min(start + size, self.count))
            places = {
                item.name: tuple(part if self._is_batch(position, dim) else slice(None) for position, dim in enumerate(item.shape))
                for item in self._inputs
            }
            yield Batch({name: np.asarray(value[places[name]]) for name, value in everything.items()}, {}, part.stop - part.start)

    def feed(self, size: int) -> Feed:
        """One batch of just `size` examples."""
        return self._draw(size, 0, self._open_size)

    def feeds(self, size: int, seed: int) -> Iterator[Feed]:
        """Endless batches of just `size` examples."""
        for start in itertools.count(0, size):
            yield self._draw(size, start, self._open_size)

    def _running_size(self, session: runtime.Session) -> int:
        last: EngineError | None = None
        for size in OPEN_SIZES:
            try:
                runtime.run(session, self._draw(self._fixed or 2, 0, size))
            except EngineError as error:
                last = error
            else:
                return size
        raise EngineError(
            "shape_mismatch",
            f"The network runs on no random input of the shapes that it declares ({last.message if last else ''}).",
            hint="Upload a small dataset of real examples and name it in the spec; labels are not needed.",
        )

    def _draw(self, batch: int, start: int, open_size: int) -> Feed:
        rng = np.random.default_rng([self._seed, start])
        drawn = {item.name: _random(rng, self._shape(item.name, item.shape, batch, open_size), item.type) for item in self._inputs}
        for name in self._added.keys() & drawn.keys():
            drawn[name] = np.full(np.shape(drawn[name]), self._added[name], drawn[name].dtype)
        return drawn

    def _is_batch(self, position: int, declared: Any) -> bool:
        """Whether a dimension counts examples."""
        return not isinstance(declared, int) and (position == 0 or (declared == self._batch_name and declared is not None))

    def _shape(self, name: str, declared: list[Any], batch: int, open_size: int) -> list[int]:
        stated = self._stated.get(name, ())
        return [
            size
            if isinstance(size, int)
            else batch
            if self._is_batch(position, size)
            else (stated[position] if position < len(stated) else None) or open_size
            for position, size in enumerate(declared)
        ]


class CompletedExamples:
    """Other examples, with what stands in inputs that they do not have: each file is fed by its own signature.

    Args:
        examples: What the dataset, or chance, gives.
        added: The value of each further input, by name.
        sessions: Files that have these inputs, or not.
    """

    def __init__(self, examples: Examples, added: Mapping[str, float], sessions: Sequence[runtime.Session]) -> None:
        self.name, self.count = examples.name, examples.count
        self._examples = examples
        self._added = {
            item.name: (added[item.name], item.shape, runtime.dtype_of(item.type))
            for session in sessions
            for item in session.get_inputs()
            if item.name in added
        }

    def batches(self, size: int) -> Iterator[Batch]:
        """All examples in order."""
        for batch in self._examples.batches(size):
            yield replace(batch, feed=self._completed(batch.feed))

    def feed(self, size: int) -> Feed:
        """One batch of just `size` examples."""
        return self._completed(self._examples.feed(size))

    def feeds(self, size: int, seed: int) -> Iterator[Feed]:
        """Endless batches of just `size` examples."""
        return map(self._completed, self._examples.feeds(size, seed))

    def _completed(self, feed: Feed) -> Feed:
        rows = next((len(array) for name, array in feed.items() if name not in self._added and np.ndim(array)), 1)
        return {
            **feed,
            **{
                name: np.full([size if isinstance(size, int) else rows for size in shape], value, dtype)
                for name, (value, shape, dtype) in self._added.items()
            },
        }


def with_evaluation_split(data: "Data", split: str, seed: int) -> "Data":
    """The dataset with the split that is evaluated: a `validation` split that is not there is carved out of `train`."""
    if split != "validation" or split in data.splits:
        return data
    return replace(data, splits={**data.splits, "train": data.train(seed=seed), "validation": data.validation(seed=seed)})


def fixed_batch(session: runtime.Session) -> int | None:
    """The batch size that the file prescribes, or None where it is open."""
    inputs = session.get_inputs()
    first = inputs[0].shape[0] if inputs and inputs[0].shape else None
    return first if isinstance(first, int) else None


def _random(rng: np.random.Generator, shape: list[int], kind: str) -> NDArray[Any]:
    dtype = runtime.dtype_of(kind)
    if dtype is not None and dtype.kind == "f":
        return np.asarray(rng.standard_normal(shape), dtype)
    if dtype is not None and dtype.kind in "biu":
        return np.asarray(rng.integers(0, 2, shape), dtype)
    raise EngineError("shape_mismatch", f"Inputs of type {kind} cannot be drawn at random.", hint="Upload a small dataset.")
