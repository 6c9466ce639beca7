"""Speed of two files, measured in turns in one process.

Baseline and result run alternately, so that a busy machine slows both. The verdict rests on the ratio of each pair of neighbouring
runs: its median, and a 95 % interval of that median from order statistics of block medians, which holds for any distribution.
Where what a file computes depends on its input, every pair has an input of its own, and the ratio is that of the means over them.
`faster` and `slower` are reported only where the whole interval lies beyond `TOLERANCE`; anything else is `same`.
"""

import itertools
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from engine.contract.figures import QUANTILES, Latency, Speed, SpeedWord, Timing
from engine.contract.json import JsonObject
from engine.formats.onnx import runtime
from engine.formats.onnx.runtime import Feed
from engine.measuring.environment import runtime_name
from engine.measuring.examples import Examples, fixed_batch
from engine.measuring.packing import gzip_bytes

TOLERANCE = 0.05
"""Ratios between 1/1.05 and 1.05 are called the same: repeated measurements of one file against itself stay within that."""
SECONDS_PER_BATCH_SIZE = 2.0
WARM_UP_RUNS = 3
WARM_UP_SECONDS = 0.5
"""After which a slow network, which has long filled its caches, is timed."""
RUNS_PER_INPUT = 3
MIN_RUNS = 5
_BLOCKS = 20


class FileSizes(NamedTuple):
    """Bytes of a file, and after gzip at its default level, 6."""

    file_bytes: int
    gzip_bytes: int


def file_sizes(path: Path) -> FileSizes:
    """Size of a file, plain and compressed."""
    return FileSizes(path.stat().st_size, gzip_bytes(path))


def timings(
    sessions: Sequence[ort.InferenceSession],
    examples: Examples,
    batch_sizes: Sequence[int],
    *,
    threads: int,
    repeats: int,
    varied: bool = False,
) -> tuple[Timing, ...]:
    """Time two files, one entry for every batch size.

    Args:
        sessions: The uploaded network and the published file.
        examples: Where inputs come from; repeated up to the batch size.
        batch_sizes: Sizes to measure; a file with a fixed batch is measured at that size only.
        threads: Threads of both sessions, for the record.
        repeats: Timed runs of each file, cut short after about two seconds for each batch size (at least five).
        varied: Give so many different batches of examples instead of one, each of which runs three times.
    """
    fixed = [size for session in sessions if (size := fixed_batch(session)) is not None]
    sizes = list(dict.fromkeys(fixed)) if fixed else list(dict.fromkeys(batch_sizes))
    if varied:
        return tuple(_measure(by_input(sessions, examples, size, repeats), size, threads, varied=True) for size in sizes)
    return tuple(_measure(_interleaved(sessions, examples.feed(size), repeats), size, threads, varied=False) for size in sizes)


def _measure(times: NDArray[np.float64], batch_size: int, threads: int, *, varied: bool) -> Timing:
    """What the seconds of each run (of each input) come to, shape (2, runs)."""
    speedup, low, high = (ratio_of_means if varied else paired_ratio)(times[0], times[1])
    baseline, result = (
        Latency(
            p50=float(np.percentile(column, 50)) * 1e3,
            p95=float(np.percentile(column, 95)) * 1e3,
            batch_size=batch_size,
            threads=threads,
            runtime=runtime_name(),
            runs_count=len(column) * (RUNS_PER_INPUT if varied else 1),
            quantiles=tuple(float(f"{value * 1e3:.4g}") for value in np.quantile(column, QUANTILES)),
            **_over_inputs(column * 1e3) if varied else {},
        )
        for column in times
    )
    speed = Speed(batch_size=batch_size, speedup=speedup, speedup_low=low, speedup_high=high, verdict=verdict(low, high))
    return Timing(baseline=baseline, result=result, speed=speed)


def _over_inputs(column: NDArray[np.float64]) -> JsonObject:
    easy, hard = np.percentile(column, [10, 90])
    return {"inputs_count": len(column), "mean": float(column.mean()), "p10": float(easy), "p90": float(hard)}


def by_input(sessions: Sequence[ort.InferenceSession], examples: Examples, size: int, most: int) -> NDArray[np.float64]:
    """Seconds of a run on each of up to `most` batches, shape (2, inputs): the median of neighbouring runs, so that a busy moment of the
    machine makes no input hard."""
    deadline = time.perf_counter() + SECONDS_PER_BATCH_SIZE
    found: list[tuple[float, float]] = []
    for number, feed in enumerate(itertools.islice(examples.feeds(size, seed=0), most + 1)):
        inputs = [{item.name: feed[item.name] for item in session.get_inputs()} for session in sessions]
        runs = [[0.0, 0.0] for _ in range(RUNS_PER_INPUT)]
        for place, pair in enumerate(runs):
            for index in (0, 1) if (number + place) % 2 == 0 else (1, 0):
                begin = time.perf_counter()
                sessions[index].run(None, inputs[index])
                pair[index] = time.perf_counter() - begin
        if number:  # The first warms up.
            baseline, result = np.median(runs, axis=0)
            found.append((float(baseline), float(result)))
        if len(found) >= MIN_RUNS and time.perf_counter() > deadline:
            break
    return np.array(found).T


def ratio_of_means(baseline: NDArray[np.float64], result: NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean of the baseline over the mean of the result, on the same inputs, and a 95 % interval of it as `paired_ratio` has it."""
    pairs = np.array([baseline, result])
    blocks = np.sort([part[0].sum() / part[1].sum() for part in np.array_split(pairs, min(_BLOCKS, pairs.shape[1]), axis=1)])
    low, high = order_statistics(len(blocks))
    middle = float(baseline.sum() / result.sum())
    return middle, min(middle, float(blocks[low])), max(middle, float(blocks[high]))


def _interleaved(sessions: Sequence[ort.InferenceSession], feed: Feed, repeats: int) -> NDArray[np.float64]:
    """Seconds of each run, shape (2, runs); who goes first changes with every pair."""
    inputs = [{item.name: feed[item.name] for item in session.get_inputs()} for session in sessions]
    begin = time.perf_counter()
    deadline = begin + SECONDS_PER_BATCH_SIZE
    for _ in range(WARM_UP_RUNS):
        for session, own in zip(sessions, inputs, strict=True):
            runtime.run(session, own)
        if time.perf_counter() > begin + WARM_UP_SECONDS:
            break
    times: list[tuple[float, float]] = []
    while len(times) < repeats and (len(times) < MIN_RUNS or time.perf_counter() < deadline):
        pair = [0.0, 0.0]
        for index in (0, 1) if len(times) % 2 == 0 else (1, 0):
            begin = time.perf_counter()
            sessions[index].run(None, inputs[index])
            pair[index] = time.perf_counter() - begin
        times.append((pair[0], pair[1]))
    return np.array(times).T


def paired_ratio(baseline: NDArray[np.float64], result: NDArray[np.float64]) -> tuple[float, float, float]:
    """Median of baseline / result over neighbouring runs, and the 95 % interval of that median.

    Runs that follow each other are not independent, so they are put together into up to 20 blocks; the interval runs between two
    order statistics of the blocks' medians, chosen by the binomial distribution (Hahn, Meeker, Statistical Intervals, section 5.2).
    With fewer than six blocks it spans all of them.
    """
    ratios = np.log(baseline) - np.log(result)
    blocks = np.sort([np.median(block) for block in np.array_split(ratios, min(_BLOCKS, len(ratios)))])
    low, high = order_statistics(len(blocks))
    middle = float(np.median(ratios))
    return math.exp(middle), math.exp(min(middle, blocks[low])), math.exp(max(middle, blocks[high]))


def order_statistics(count: int, confidence: float = 0.95) -> tuple[int, int]:
    """Indices of the order statistics of `count` values between which the median lies with at least `confidence`."""
    low, tail = 0, 0.5**count
    while low + 1 < count // 2:
        tail += math.comb(count, low + 1) * 0.5**count
        if 2 * tail > 1 - confidence:
            break
        low += 1
    return low, count - 1 - low


def verdict(low: float, high: float) -> SpeedWord:
    """An interval of the speed-up in one word."""
    if low > 1 + TOLERANCE:
        return "faster"
    return "slower" if high < 1 / (1 + TOLERANCE) else "same"
