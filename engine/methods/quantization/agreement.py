"""Whether a quantized graph still computes what the float graph does, and which operator is at fault where it does not.

The QDQ graph is run with the runtime's optimizations off, so that nothing but the file itself is judged. What rounding explains is
measured too: the float graph with noise of the size of the rounding in place of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engine.contract.errors import EngineError
from engine.formats.onnx import runtime
from engine.formats.onnx.runtime import Feed
from engine.methods.quantization.plan import Plan
from engine.methods.quantization.qdq import QdqWriter
from engine.process.memory import give_back_memory

if TYPE_CHECKING:
    from engine.methods.quantization.quantizer import Quantizer

COMPARED_EXAMPLES = 4
MARGIN = 10.0
"""The error of rounding may have this many times the power of the noise that stands for it."""
_DRAWS = 3
_EXACT = 1e-8
"""Noise of this share of the signal's power is beneath notice: -80 dB."""
_MOST_BLAMED = 8
_LARGE_EXAMPLE = 32 << 20
"""Bytes of activations."""

Errors = NDArray[np.float64]
"""Power of the error of each floating-point output, relative to the output's power."""


def examples(feeds: Iterable[Feed], example_bytes: int) -> list[Feed]:
    """The first few calibration batches; one alone where an example is large, and its outputs tell as much as many small ones."""
    return list(itertools.islice(feeds, COMPARED_EXAMPLES if example_bytes <= _LARGE_EXAMPLE else 1))


def settle(
    quantizer: Quantizer, chosen: Plan, excluded: Collection[str], target: Path, feeds: list[Feed], *, threads: int, work: Path
) -> dict[str, float]:
    """Write the QDQ graph of a plan to `target`, less the operators that change the result by more than rounding.

    Returns:
        The operators that stay in float for it, with the error in dB that they caused.

    Raises:
        EngineError: `quantization_mismatch` where no few operators explain the difference.
    """
    judge = _Judge(quantizer, feeds, threads, work)
    blamed: dict[str, float] = {}
    while True:
        error = judge.excess(chosen, target)
        if error <= MARGIN:
            return blamed
        if len(blamed) == _MOST_BLAMED:
            raise EngineError(
                "quantization_mismatch",
                "The quantized network differs from the float network by more than rounding explains, whichever operators stay in float.",
                hint="Use dynamic_quantization, or keep parts of the network in float with `ignore`.",
                category="internal",
                details={"kept_in_float": list(blamed)},
            )
        culprit = _culprit(judge, quantizer, chosen, {*excluded, *blamed}, target)
        blamed[culprit] = float(10 * np.log10(error))
        chosen = quantizer.plan({*excluded, *blamed})


def _culprit(judge: _Judge, quantizer: Quantizer, chosen: Plan, excluded: set[str], target: Path) -> str:
    """The first operator, in the order of the graph, with which the difference is more than rounding; found by bisection."""
    nodes = [node.name for node in quantizer.index.nodes if node.name in set(chosen.nodes)]
    low, high = 0, len(nodes)
    while high - low > 1:
        middle = (low + high) // 2
        part = quantizer.plan({*excluded, *nodes[middle:]})
        if judge.excess(part, target) > MARGIN:
            high = middle
        else:
            low = middle
    return nodes[low]


class _Judge:
    """Compares graphs with the float graph on a few examples."""

    def __init__(self, quantizer: Quantizer, feeds: list[Feed], threads: int, work: Path) -> None:
        self._quantizer, self._feeds, self._threads, self._work = quantizer, feeds, threads, work
        self._expected = self._outputs(quantizer.path)

    def excess(self, chosen: Plan, target: Path) -> float:
        """How many times the power of its rounding the error of a plan's graph has, at the worst output. Writes the graph to `target`."""
        self._quantizer.write(chosen, target)
        errors = self._errors(target)
        if not len(errors) or errors.max() <= _EXACT:
            return 0.0
        noisy = self._work / "noise.onnx"
        explained = np.full(len(errors), _EXACT)
        for seed in range(_DRAWS):
            self._quantizer.write_with(noise(seed), chosen, noisy)
            explained = np.maximum(explained, self._errors(noisy))
            if (errors <= MARGIN * explained).all():
                break
        noisy.unlink()
        return float((errors / explained).max())

    def _outputs(self, path: Path) -> list[list[NDArray[np.float64]]]:
        session = runtime.open_session(path, threads=self._threads, optimized=False, frugal=True)
        results = [runtime.run(session, feed) for feed in self._feeds]
        del session
        give_back_memory()
        return [[value.astype(np.float64) for value in row if np.issubdtype(value.dtype, np.floating)] for row in results]

    def _errors(self, path: Path) -> Errors:
        signal, noise = np.zeros(len(self._expected[0])), np.zeros(len(self._expected[0]))
        for expected, found in zip(self._expected, self._outputs(path), strict=True):
            for position, (left, right) in enumerate(zip(expected, found, strict=True)):
                finite = np.isfinite(left)
                signal[position] += np.square(left[finite]).sum()
                difference = np.where(np.isfinite(right[finite]), right[finite] - left[finite], np.inf)
                noise[position] += np.square(difference).sum()
        return noise / np.maximum(signal, 1e-30)


def noise(seed: int) -> type[QdqWriter]:
    """A class of writers that add noise where a QDQ graph rounds; weights are rounded all the same.

    The noise is the fractional part of the number times a factor, so that it fills a step evenly and is the same for equal numbers.
    """

    class NoiseWriter(QdqWriter):
        _rng = np.random.default_rng(seed)

        def round(self, tensor: str, before: str, after: str) -> None:
            how = self._scalings[self._plan.source(tensor)]
            step, (low, high) = how.scale, how.bounds
            factor, phase = np.float32(self._rng.uniform(20, 60) / step), np.float32(self._rng.uniform())
            names = [self._fresh.claim(f"{after}_{part}") for part in ("times", "turned", "whole", "part", "centred", "noise", "sum")]
            times, turned, whole, part, centred, noise, total = names
            self.add("Mul", [before, self.constant("factor", factor)], times)
            self.add("Add", [times, self.constant("phase", phase)], turned)
            self.add("Floor", [turned], whole)
            self.add("Sub", [turned, whole], part)
            self.add("Sub", [part, self.constant("half", np.float32(0.5))], centred)
            self.add("Mul", [centred, self.constant("step", step)], noise)
            self.add("Add", [before, noise], total)
            self.add("Clip", [total, self.constant("low", low), self.constant("high", high)], after)

    return NoiseWriter
