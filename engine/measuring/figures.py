"""How much work the steps of a job are, for its progress."""

from collections.abc import Sequence

from engine.contract.cost import BACKWARD, Facts
from engine.contract.method import MethodParams

_FIXED_EPOCHS = 0.5
"""What a step takes besides passes of examples, in epochs of training; a guess for the progress bar only."""


def shares(works: Sequence[float], start: float, end: float) -> list[tuple[float, float]]:
    """The span between `start` and `end` cut in proportion to `works`."""
    total, begin, spans = sum(works), start, []
    for work in works:
        finish = begin + (end - start) * work / total
        spans.append((begin, finish))
        begin = finish
    return spans


def expected_work(step: MethodParams, facts: Facts) -> float:
    """How much of the job's time a step may take, in epochs of training."""
    return _FIXED_EPOCHS + step.cost(facts).passes(facts) / (BACKWARD * max(1, facts.train_examples))
