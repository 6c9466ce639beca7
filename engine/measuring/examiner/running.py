"""Runs a file on batches of examples: not too many at once, and two batches at a time where nobody else wants the second processor."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort

from engine.formats.onnx import runtime
from engine.formats.onnx.runtime import Feed
from engine.measuring.examples import Batch, Examples
from engine.measuring.outputs import Arrays

LARGE_FILE_BYTES, LARGE_BATCH = 2**24, 16
MOST_INPUT_BYTES = 2**23
"""A large file, or one of large examples, is run on a few examples at a time: more take much memory, and are no quicker."""


def together(path: Path, examples: Examples, most: int) -> int:
    """How many examples are run at once, at most `most`: what a file gives for an example does not depend on those beside it."""
    one = sum(np.asarray(array).nbytes for array in examples.feed(1).values())
    fits = max(1, MOST_INPUT_BYTES // max(one, 1))
    return min(most, fits, LARGE_BATCH if path.stat().st_size >= LARGE_FILE_BYTES else most)


def answers(session: ort.InferenceSession, batches: Iterator[Batch], has_company: Callable[[], bool]) -> Iterator[tuple[Batch, Arrays]]:
    """Every batch with the outputs of its examples, in order.

    Args:
        session: The file.
        batches: What it is run on.
        has_company: Asked before each batch: whether the next one may be run beside it, by a thread of its own.
    """
    with ThreadPoolExecutor(1) as company:
        for batch in batches:
            following = next(batches, None) if has_company() else None
            if following is None:
                yield batch, given_by(session, batch)
                continue
            beside = company.submit(given_by, session, following)
            own = given_by(session, batch)
            yield batch, own
            yield following, beside.result()


def given_by(session: ort.InferenceSession, batch: Batch) -> Arrays:
    """Outputs of the examples that count."""
    outputs = runtime.run(session, feed_of(session, batch))
    padded = len(next(iter(batch.feed.values()))) if np.ndim(next(iter(batch.feed.values()))) else batch.count
    return [output[: batch.count] if output.ndim and len(output) == padded else output for output in outputs]


def feed_of(session: ort.InferenceSession, batch: Batch) -> Feed:
    """Those inputs of a batch that the file has."""
    names = {item.name for item in session.get_inputs()}
    return {name: value for name, value in batch.feed.items() if name in names}
