"""Targets of a spec, checked against what was measured on the published file."""

from collections.abc import Mapping
from typing import Any, Literal

from engine.contract.spec import AccuracyConstraint, Constraints

Outcome = Literal["constraints_met", "constraints_not_met", "no_constraints"]
Figures = Mapping[str, Any]


def check(constraints: Constraints | None, baseline: Figures, result: Figures, split: str) -> list[dict[str, Any]]:
    """One entry for each target: `name`, `limit`, `value`, `met`, and `metric` for accuracy.

    Args:
        constraints: The spec's targets.
        baseline: Figures of the uploaded model, as in a job's summary.
        result: Figures of the published file, measured the same way.
        split: The split whose metrics count.
    """
    if constraints is None:
        return []
    checks = [] if constraints.accuracy is None else _accuracy(constraints.accuracy, baseline["metrics"], result["metrics"], split)
    checks += [
        _at_most(name, limit, result[figure])
        for name, limit, figure in (
            ("max_file_bytes", constraints.max_file_bytes, "file_bytes"),
            ("max_params_count", constraints.max_params_count, "params_count"),
            ("max_macs_count", constraints.max_macs_count, "macs_count"),
        )
        if limit is not None
    ]
    if constraints.min_speedup is not None:
        speedup = baseline["latency_ms"]["p50"] / result["latency_ms"]["p50"]
        checks.append(_entry("min_speedup", constraints.min_speedup, speedup, speedup >= constraints.min_speedup))
    if constraints.max_latency_ms is not None:
        checks.append(_at_most("max_latency_ms", constraints.max_latency_ms, result["latency_ms"]["p50"]))
    return checks


def outcome(checks: list[dict[str, Any]]) -> Outcome:
    """The job's outcome: whether every target was met."""
    if not checks:
        return "no_constraints"
    return "constraints_met" if all(item["met"] for item in checks) else "constraints_not_met"


def sentence(item: Mapping[str, Any]) -> str:
    """One target and what was measured, in words."""
    value = "unknown" if item["value"] is None else f"{item['value']:.6g}"
    return f"{item['name']} is {value}, the limit is {item['limit']:.6g}"


def rank(checks: list[dict[str, Any]]) -> tuple[bool, int]:
    """How good a candidate is: accuracy kept first, then the number of targets met. Greater is better."""
    accurate = all(item["met"] for item in checks if item["name"].startswith("accuracy"))
    return accurate, sum(item["met"] for item in checks)


def accuracy_kept(constraint: AccuracyConstraint, baseline: Mapping[str, float], result: Mapping[str, float], split: str) -> bool:
    """Whether metrics satisfy an accuracy target; false where the metric is missing."""
    key = f"{split}.{constraint.metric}"
    return key in baseline and key in result and all(item["met"] for item in _accuracy(constraint, baseline, result, split))


def _accuracy(
    constraint: AccuracyConstraint, baseline: Mapping[str, float], result: Mapping[str, float], split: str
) -> list[dict[str, Any]]:
    key = f"{split}.{constraint.metric}"
    before, after = baseline[key], result[key]
    falls = -1.0 if constraint.metric == "cross_entropy" else 1.0
    checks = []
    if constraint.max_drop is not None:
        drop = falls * (before - after)
        if constraint.drop_type == "relative":
            drop = drop / abs(before) if before else (0.0 if drop <= 0 else float("inf"))
        # Both are ratios of counts; their difference carries a rounding error that must not decide.
        met = drop <= constraint.max_drop + 1e-9
        checks.append(_entry("accuracy.max_drop", constraint.max_drop, drop, met, metric=key, drop_type=constraint.drop_type))
    if constraint.min is not None:
        checks.append(_entry("accuracy.min", constraint.min, after, falls * (after - constraint.min) >= -1e-9, metric=key))
    return checks


def _at_most(name: str, limit: float, value: float | None) -> dict[str, Any]:
    """A figure that could not be counted meets no limit."""
    return _entry(name, limit, value, value is not None and value <= limit)


def _entry(name: str, limit: float, value: float | None, met: bool, **more: Any) -> dict[str, Any]:
    return {"name": name, "limit": limit, "value": value, "met": bool(met), **more}
