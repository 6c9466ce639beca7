"""Scores published files in a process of its own, which has never seen the network in memory: `python -m engine.measuring.examiner.server`.

The process reads one JSON request a line from standard input, answers one JSON line each on standard output, loads every file from
disk with stock ONNX Runtime, and ends with its input or its parent. It imports no torch. `engine.measuring.examiner.client` sends it requests.
"""

import hashlib
import importlib
import math
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.contract.errors import EngineError, translate
from engine.data import load_dataset
from engine.formats.onnx import runtime
from engine.formats.onnx.executed import executed_macs
from engine.formats.onnx.runtime import Feed
from engine.heads.chance import Chance
from engine.heads.classes import ClassChanges
from engine.heads.find import Found, find_heads, outputs_of
from engine.heads.scoring import Scores
from engine.measuring.examiner.inbox import Inbox
from engine.measuring.examiner.messages import (
    Answer,
    CompareRequest,
    Counted,
    CountRequest,
    Difference,
    DigestRequest,
    ExampleSource,
    ProfileRequest,
    Request,
    Score,
    ScoreRequest,
    TensorDigest,
    TimingRequest,
)
from engine.measuring.examiner.running import answers, given_by, opened, together
from engine.measuring.examples import Batch, CompletedExamples, Examples, RandomExamples, SplitExamples, with_evaluation_split
from engine.measuring.measurement import timings
from engine.measuring.outputs import Arrays, OutputStore
from engine.measuring.profile import node_shares
from engine.outputs.evidence import Column, columns_of
from engine.process.linux import die_with_parent

if TYPE_CHECKING:
    from engine.data.dataset import Data


SEEN_EXAMPLES = 64
"""On so many it is seen what the baseline's outputs mean."""


def score(
    request: ScoreRequest,
    own: runtime.Session,
    examples: Examples,
    columns: Mapping[str, Column],
    has_company: Callable[[], bool] = lambda: False,
) -> Score:
    """Metrics of one file on all examples, in one pass.

    Metrics against targets are those of the outputs' tasks. Fidelity compares with the baseline: its stored outputs, or the file run beside.

    Args:
        request: Which file to score beside which baseline.
        own: The file's session.
        examples: What to run on.
        columns: What is known of the dataset's targets, in all its splits.
        has_company: Whether a second batch may be run beside another now.

    Raises:
        EngineError: `export_mismatch` where an output is NaN, `non_finite_outputs` where the baseline's is, `shape_mismatch`,
            `metadata_invalid` where a declared task cannot read its output.
    """
    is_baseline = request.file == request.baseline
    store = OutputStore(request.outputs, examples.count)
    reference: Callable[[Batch, slice, Arrays], Arrays]
    if is_baseline:
        reference = store.keep
    elif store.complete:
        reference = store.read
    else:
        baseline = runtime.open_session(request.baseline, threads=request.threads)
        reference = lambda batch, place, _: given_by(baseline, batch)  # noqa: E731 - a function like the other two
    found = None if request.heads is None else Found(request.heads)
    scores, chance, classes = Scores(()), Chance(()), ClassChanges(())
    start = 0
    shapes: dict[str, tuple[int, ...]] = {}
    pending: list[_Answered] = []
    size = request.batch_size if request.exact_batch else together(request.file, examples, request.batch_size)
    for batch, outputs in answers(own, examples.batches(size), has_company):
        expected = reference(batch, slice(start, start + batch.count), outputs)
        _refuse_nan(outputs, is_baseline=is_baseline)
        given = {name: array[: batch.count] if np.ndim(array) else array for name, array in batch.feed.items()}
        pending.append(_Answered(outputs, expected, given, batch.targets))
        shapes = {name: value.shape[1:] for name, value in batch.feed.items()}
        start += batch.count
        if found is None and start < min(SEEN_EXAMPLES, examples.count):
            continue
        if found is None:
            names = [output.name for output in own.get_outputs()]
            found = find_heads(outputs_of(names, *_together(pending)), columns, request.declared)
        if not scores.heads:
            scores, chance = Scores(found.heads, request.metrics, usual=request.usual), Chance(found.heads if is_baseline else ())
            classes = ClassChanges(() if is_baseline else found.heads)
        for item in pending:
            scores.add(item.outputs, item.targets, item.given, item.expected)
            chance.add(item.outputs, item.targets, item.given)
            classes.add(item.outputs, item.targets, item.given, item.expected)
        pending.clear()
    store.close()
    assert found is not None
    return Score(
        metrics={f"{examples.name}.{name}": value for name, value in scores.figures().items()},
        examples_count=examples.count,
        counted=scores.counted,
        heads=found.heads,
        unused_targets=dict(found.unused),
        notes=found.notes,
        near_chance=chance.sentences(),
        shapes=shapes,
        classes=classes.changes(),
    )


@dataclass(frozen=True)
class _Answered:
    """One batch: what a file and the baseline gave, what they were given, and the targets."""

    outputs: Arrays
    expected: Arrays
    given: Mapping[str, NDArray[Any]]
    targets: Mapping[str, NDArray[Any]]


def _together(answered: Sequence[_Answered]) -> tuple[Arrays, dict[str, NDArray[Any]]]:
    """The baseline's outputs and the inputs of several batches; of what has no batch in its first dimension, those of the first."""

    def joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
        same = all(part.ndim and part.shape[1:] == parts[0].shape[1:] for part in parts)
        return np.concatenate(parts) if same else parts[0]

    outputs = [joined([item.expected[place] for item in answered]) for place in range(len(answered[0].expected))]
    return outputs, {name: joined([item.given[name] for item in answered]) for name in answered[0].given}


def count(request: CountRequest, examples: Examples) -> Counted:
    """Mean multiply-accumulates of an example, counted on what really ran."""
    rows = 0

    def feeds() -> Iterator[Feed]:
        nonlocal rows
        for batch in examples.batches(request.batch_size):
            first = next(iter(batch.feed.values()))
            rows += len(first) if np.ndim(first) else batch.count
            yield batch.feed

    total = executed_macs(request.file, feeds(), threads=request.threads)
    return Counted(macs_count=None if total is None else total / rows)


def compare(request: CompareRequest) -> Difference:
    """Largest differences between a file's outputs and the `expected` ones (npz files, inputs in the order of `names`)."""
    session = opened(request.file, threads=request.threads)
    with np.load(request.inputs, allow_pickle=False) as inputs, np.load(request.expected, allow_pickle=False) as expected:
        wanted = [expected[f"arr_{i}"] for i in range(len(expected.files))]
        outputs = runtime.run(session, {name: inputs[f"arr_{i}"] for i, name in enumerate(request.names)})
    shapes = [[list(array.shape) for array in arrays] for arrays in (wanted, outputs)]
    if shapes[0] != shapes[1]:
        raise EngineError(
            "export_mismatch", f"The exported file gives outputs of shapes {shapes[1]} instead of {shapes[0]}.", category="internal"
        )
    worst, scale = 0.0, 0.0
    for left, right in zip(wanted, outputs, strict=True):
        difference = np.abs(left.astype(np.float64) - right.astype(np.float64))
        worst = max(worst, float(np.max(np.where(left == right, 0.0, difference), initial=0.0)))
        scale = max(scale, float(np.max(np.abs(left.astype(np.float64)), initial=0.0)))
    return Difference(max_abs_difference=worst if math.isfinite(worst) else None, max_abs_value=scale)


def tensor_digests(path: Path, format: str) -> dict[str, TensorDigest]:
    """Shape and sha256 of the bytes of every tensor in a file of weights."""
    stored = importlib.import_module(f"engine.formats.{format}.stored")
    return {name: TensorDigest(shape=shape, sha256=hashlib.sha256(data).hexdigest()) for name, shape, data in stored.tensors(path)}


def _refuse_nan(outputs: Arrays, *, is_baseline: bool) -> None:
    if not any(np.issubdtype(output.dtype, np.floating) and np.isnan(output).any() for output in outputs):
        return
    if is_baseline:
        raise EngineError(
            "non_finite_outputs",
            "The uploaded model gives outputs that are not numbers (NaN) on these examples.",
            hint="Check metadata.preprocessing of the dataset, and the model's weights.",
        )
    raise EngineError(
        "export_mismatch",
        "The compressed file gives outputs that are not numbers (NaN), where the original's are.",
        hint="Lower the learning rate or the compression; for quantization, calibrate on more examples.",
    )


class Desk:
    """Answers requests about one job; keeps its dataset loaded between them."""

    def __init__(self, sender_waits: Callable[[], bool]) -> None:
        self._data: Data | None = None
        self._sender_waits = sender_waits

    def answer(self, request: Request) -> object:
        """Do what is asked."""
        match request:
            case ScoreRequest():
                session = opened(request.file, threads=request.threads, optimized=request.optimized)
                examples = self._examples(request.source, session)
                columns = {} if self._data is None else columns_of(self._data.splits, self._data.named)
                # What was started with one thread has two processes, and the other one may be at rest.
                return score(request, session, examples, columns, self._sender_waits if request.threads == 1 else lambda: False)
            case TimingRequest():
                sessions = [runtime.open_session(path, threads=request.threads) for path in (request.baseline, request.result)]
                examples = self._examples(request.source, *sessions)
                return timings(
                    sessions, examples, request.batch_sizes, threads=request.threads, repeats=request.repeats, varied=request.varied
                )
            case CountRequest():
                session = runtime.open_session(request.file, threads=request.threads)
                return count(request, self._examples(request.source, session))
            case CompareRequest():
                return compare(request)
            case ProfileRequest():
                session = runtime.open_session(request.file, threads=request.threads)
                first = next(iter(self._examples(request.source, session).batches(1)))
                return node_shares(request.file, first.feed, threads=request.threads, p50_ms=request.p50_ms)
            case DigestRequest():
                return tensor_digests(request.file, request.format)

    def _examples(self, source: ExampleSource, *sessions: runtime.Session) -> Examples:
        """Examples for files that are run beside each other, the first of which says how large a batch is."""
        examples = self._from(source, sessions[0])
        return CompletedExamples(examples, source.added, sessions) if source.added else examples

    def _from(self, source: ExampleSource, session: runtime.Session) -> Examples:
        described = source.dataset
        if described is None:
            return RandomExamples(session, seed=source.seed, signature=source.signature, added=source.added)
        if self._data is None:
            data = load_dataset(described.path, described.format, described.metadata, source.signature, source.work)
            self._data = with_evaluation_split(data, source.split, source.seed)
        return SplitExamples(source.split, self._data.splits[source.split], session)


def main() -> None:
    """Serve requests until the input ends. Stray prints of libraries go to standard error."""
    if sys.platform == "linux":
        die_with_parent(int(sys.argv[1]), signal.SIGKILL)
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    inbox = Inbox(sys.stdin)
    desk = Desk(inbox.sender_waits)
    for line in inbox.lines():
        try:
            answer = Answer(found=desk.answer(inbox.request(line)))
        except Exception as error:
            translated = translate(error)
            if translated.category == "internal":
                traceback.print_exc()
            answer = Answer(error=translated.described())
        inbox.answered()
        print(answer.model_dump_json(), file=output, flush=True)


if __name__ == "__main__":
    main()
