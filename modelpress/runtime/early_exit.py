"""A network with early exits: of a batch, each stage runs only what no earlier exit was sure enough of.

network = modelpress.runtime.load("step0-exits.json", budget=0.35)
answer = network.run({"input": images})
answer.outputs["logits"], answer.exits

for answer in network.anytime({"input": images}):   # after every exit, until time is up
    ...
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from modelpress.runtime.manifest import ArtifactError, Manifest

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Answer:
    """What a network answered to a batch."""

    outputs: dict[str, NDArray[Any]]
    """The network's outputs by name, of every example those of its own exit."""
    exits: NDArray[np.int64]
    """The exit at which every example stopped, from 1."""
    confidences: NDArray[np.float32]
    """How sure that exit was."""
    macs_count: float
    """Mean multiply-accumulates of an example: of all stages and exits up to its own."""


class EarlyExit:
    """The stages of one artifact, loaded on the CPU."""

    def __init__(
        self, manifest: Manifest, *, budget: float | None = None, thresholds: Sequence[float] | None = None, threads: int = 1
    ) -> None:
        """Load every stage.

        Args:
            manifest: The artifact.
            budget: One of its `budgets`; by default the first.
            thresholds: In the place of a budget: how sure each exit but the last must be; infinite where nothing stops.
            threads: Threads of each stage.

        Raises:
            ArtifactError: A file is missing or changed, or there is no such budget.
        """
        document = manifest.document
        self.inputs: tuple[str, ...] = tuple(document["inputs"])
        self.outputs: tuple[str, ...] = tuple(document["outputs"])
        self.macs_counts: tuple[float, ...] = tuple(document["macs_counts"])
        """Multiply-accumulates of one example up to each exit, all earlier exits included."""
        self.budgets = {float(item["budget"]): _thresholds(item["thresholds"]) for item in document["budgets"]}
        """The thresholds that were calibrated, by budget: a share of the whole network's multiply-accumulates."""
        self._axes: dict[str, int | None] = dict(document["batch_axes"])
        self._stages = [_Stage(manifest, item, threads) for item in document["stages"]]
        self.use(budget=budget, thresholds=thresholds)

    def use(self, *, budget: float | None = None, thresholds: Sequence[float] | None = None) -> None:
        """Stop by another of the budgets, or by thresholds of one's own. Raises `ArtifactError`."""
        if thresholds is None:
            known = ", ".join(f"{item:g}" for item in self.budgets) or "none: give thresholds"
            if budget is None and not self.budgets:
                raise ArtifactError(f"the artifact has no budget ({known})")
            chosen = next(iter(self.budgets)) if budget is None else budget
            if chosen not in self.budgets:
                raise ArtifactError(f"the artifact has no budget {chosen:g}; it has {known}")
            thresholds = self.budgets[chosen]
        if len(thresholds) != len(self._stages) - 1:
            raise ArtifactError(f"the artifact has {len(self._stages)} exits: {len(self._stages) - 1} thresholds, not {len(thresholds)}")
        self.thresholds: tuple[float, ...] = tuple(float(item) for item in thresholds)

    def run(self, feed: Arrays, *, batch_size: int | None = None) -> Answer:
        """Answer a batch; each example stops at the first exit whose confidence reaches its threshold.

        `feed` has the inputs by name; `batch_size` bounds how many examples a stage runs at a time.
        """
        live = self._live(feed)
        outputs: list[NDArray[Any]] = []
        rows = exits = np.empty(0, dtype=np.int64)
        confidences = np.empty(0, dtype=np.float32)
        for place, stage in enumerate(self._stages):
            found, sure, carried = stage.run(live, self._axes, batch_size)
            live |= carried
            if place == 0:
                rows = np.arange(len(sure))
                outputs, confidences, exits = found, sure.copy(), np.ones(len(sure), dtype=np.int64)
            else:
                for whole, part in zip(outputs, found, strict=True):
                    whole[rows] = part
                confidences[rows], exits[rows] = sure, place + 1
            if place == len(self._stages) - 1:
                break
            on = np.flatnonzero(~(sure >= np.float32(self.thresholds[place])))
            if not len(on):
                break
            if len(on) < len(rows):
                rows = rows[on]
                live = {name: _taken(value, self._axes[name], on) for name, value in live.items()}
        return self._answer(outputs, exits, confidences)

    def anytime(self, feed: Arrays) -> Iterator[Answer]:
        """The answer of every exit in turn, each better than the one before; stop taking them when time is up."""
        live = self._live(feed)
        for place, stage in enumerate(self._stages):
            found, sure, carried = stage.run(live, self._axes, None)
            live |= carried
            yield self._answer(found, np.full(len(sure), place + 1, dtype=np.int64), sure)

    def _live(self, feed: Arrays) -> dict[str, NDArray[Any]]:
        missing = [name for name in self.inputs if name not in feed]
        if missing:
            raise ValueError(f"the network reads {', '.join(self.inputs)}; {', '.join(missing)} is not given")
        return {name: np.asarray(feed[name]) for name in self.inputs}

    def _answer(self, outputs: list[NDArray[Any]], exits: NDArray[np.int64], confidences: NDArray[np.float32]) -> Answer:
        macs = float(np.asarray(self.macs_counts)[exits - 1].mean()) if len(exits) else 0.0
        return Answer(dict(zip(self.outputs, outputs, strict=True)), exits, confidences, macs)


class _Stage:
    def __init__(self, manifest: Manifest, item: Mapping[str, Any], threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        self._session = ort.InferenceSession(str(manifest.file(item["file"])), options, providers=["CPUExecutionProvider"])
        self._arguments = {graph.name: name for graph, name in zip(self._session.get_inputs(), item["takes"], strict=True)}
        self._gives: list[str] = list(item["gives"])

    def run(
        self, live: Arrays, axes: Mapping[str, int | None], size: int | None
    ) -> tuple[list[NDArray[Any]], NDArray[np.float32], dict[str, NDArray[Any]]]:
        """Outputs, confidences, and what later stages read."""
        given = {argument: live[name] for argument, name in self._arguments.items()}
        own = {argument: axes[name] for argument, name in self._arguments.items()}
        count = next((value.shape[axis] for name, value in given.items() if (axis := own[name]) is not None), 1)
        results = self._session.run(None, given) if size is None or size >= count else self._in_parts(given, own, count, size, axes)
        outputs = len(results) - 1 - len(self._gives)
        return list(results[:outputs]), results[outputs], dict(zip(self._gives, results[outputs + 1 :], strict=True))

    def _in_parts(
        self, given: Arrays, own: Mapping[str, int | None], count: int, size: int, axes: Mapping[str, int | None]
    ) -> list[NDArray[Any]]:
        parts = []
        for start in range(0, count, size):
            rows = np.arange(start, min(start + size, count))
            parts.append(self._session.run(None, {name: _taken(value, own[name], rows) for name, value in given.items()}))
        outputs = len(parts[0]) - len(self._gives)
        joined: list[int | None] = [*[0] * outputs, *(axes[name] for name in self._gives)]
        return [
            columns[0] if axis is None else np.concatenate(columns, axis=axis)
            for axis, columns in zip(joined, zip(*parts, strict=True), strict=True)
        ]


def _taken(value: NDArray[Any], axis: int | None, rows: NDArray[np.int64]) -> NDArray[Any]:
    return value if axis is None else np.take(value, rows, axis=axis)


def _thresholds(stated: Sequence[float | None]) -> tuple[float, ...]:
    """Those of a manifest, which writes null where nothing stops."""
    return tuple(math.inf if item is None else float(item) for item in stated)


def load(manifest: Manifest, *, budget: float | None = None, thresholds: Sequence[float] | None = None, threads: int = 1) -> EarlyExit:
    """The network of a manifest; see `EarlyExit`."""
    return EarlyExit(manifest, budget=budget, thresholds=thresholds, threads=threads)
