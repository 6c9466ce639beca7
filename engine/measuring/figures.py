"""The figures of a model, the same keys on both sides, and what their comparison says."""

from collections.abc import Mapping, Sequence
from typing import Any

from engine.contract.params import Params, TrainingFields

_RATIOS = {"file_ratio": "file_bytes", "gzip_ratio": "gzip_bytes", "params_ratio": "params_count", "macs_ratio": "macs_count"}

_SOME_EPOCHS = 3.0
"""What a training that is counted in iterations is taken for."""


def figures(
    metrics: Mapping[str, float],
    sizes: Mapping[str, int],
    counts: Mapping[str, int],
    latencies: Sequence[Mapping[str, Any]],
    side: str,
) -> dict[str, Any]:
    """Figures of one side, `baseline` or `result`; `latency_ms` is the one at the first batch size."""
    own = [dict(entry[side]) for entry in latencies]
    return {"metrics": dict(metrics), **sizes, **counts, "latency_ms": own[0], "latencies": own}


def comparison(baseline: Mapping[str, Any], result: Mapping[str, Any], latencies: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many times smaller and faster the result is, and how much each metric changed."""
    ratios = {name: _ratio(baseline[key], result[key]) for name, key in _RATIOS.items()}
    changes = {key: result["metrics"][key] - value for key, value in baseline["metrics"].items() if key in result["metrics"]}
    speed = ("batch_size", "speedup", "speedup_low", "speedup_high", "verdict")
    return {**ratios, "metric_changes": changes, "latencies": [{key: entry[key] for key in speed} for entry in latencies]}


def _ratio(before: float | None, after: float | None) -> float | None:
    return before / after if before is not None and after else None


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
