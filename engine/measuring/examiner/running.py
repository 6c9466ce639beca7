"""Runs a file on batches of examples: not too many at once, and two batches at a time where nobody else wants the second processor."""

import importlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from engine.contract.cost import run_together
from engine.contract.file_format import by_ending
from engine.formats.onnx import runtime
from engine.formats.onnx.runtime import Feed
from engine.measuring.examples import Batch, Examples
from engine.measuring.outputs import Arrays


def opened(path: Path, *, threads: int, optimized: bool = True) -> runtime.Session:
    """A file in ONNX Runtime, or in the runtime of its format where that has one of its own."""
    format = by_ending(path.suffix)
    session: runtime.Session
    if format is not None and format.runs:
        session = importlib.import_module(f"engine.formats.{format.name}.session").open_session(path, threads=threads)
    else:
        session = runtime.open_session(path, threads=threads, optimized=optimized)
    return session


def together(path: Path, examples: Examples, most: int) -> int:
    """How many examples are run at once, at most `most`: what a file gives for an example does not depend on those beside it."""
    one = sum(np.asarray(array).nbytes for array in examples.feed(1).values())
    return run_together(path.stat().st_size, one, most)


def answers(session: runtime.Session, batches: Iterator[Batch], has_company: Callable[[], bool]) -> Iterator[tuple[Batch, Arrays]]:
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


def given_by(session: runtime.Session, batch: Batch) -> Arrays:
    """Outputs of the examples that count."""
    outputs = runtime.run(session, feed_of(session, batch))
    padded = len(next(iter(batch.feed.values()))) if np.ndim(next(iter(batch.feed.values()))) else batch.count
    return [output[: batch.count] if output.ndim and len(output) == padded else output for output in outputs]


def feed_of(session: runtime.Session, batch: Batch) -> Feed:
    """Those inputs of a batch that the file has."""
    names = {item.name for item in session.get_inputs()}
    return {name: value for name, value in batch.feed.items() if name in names}
