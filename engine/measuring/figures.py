"""How much work the steps of a job are, for its progress."""

from collections.abc import Sequence

from engine.contract.params import Params, TrainingFields

_SOME_EPOCHS = 3.0
"""What a training that is counted in iterations is taken for."""


def shares(works: Sequence[float], start: float, end: float) -> list[tuple[float, float]]:
    """The span between `start` and `end` cut in proportion to `works`."""
    total, begin, spans = sum(works), start, []
    for work in works:
        finish = begin + (end - start) * work / total
        spans.append((begin, finish))
        begin = finish
    return spans


def expected_work(step: Params) -> float:
    """How much of the job's time a step may take, in epochs of training; a guess for the progress bar only."""
    if isinstance(step, TrainingFields):
        return 0.5 + _epochs(step)
    trained = sum(_epochs(value) for _, value in step if isinstance(value, TrainingFields))
    rounds = getattr(step, "iterations", None) or 1
    return 0.5 + trained * rounds


def _epochs(training: TrainingFields) -> float:
    return float(training.epochs) if training.epochs is not None else _SOME_EPOCHS
