"""Targets of a spec, checked against what was measured on the published file."""

from collections.abc import Mapping, Sequence
from typing import Literal

from engine.contract.figures import ConstraintCheck, Figures, Measured, Outcome
from engine.contract.metric import Key, catalogue, first_of
from engine.contract.spec import AccuracyConstraint, Constraints

Metrics = Mapping[str, float | None]


def check(constraints: Constraints | None, baseline: Figures, result: Figures, split: str) -> tuple[ConstraintCheck, ...]:
    """One entry for each target.

    Args:
        constraints: The spec's targets.
        baseline: Figures of the uploaded model.
        result: Figures of the published file, measured the same way.
        split: The split whose metrics count.
    """
    if constraints is None:
        return ()
    checks = [] if constraints.accuracy is None else _accuracy(constraints.accuracy, baseline.metrics, result.metrics, split)
    checks += [
        _at_most(name, limit, value)
        for name, limit, value in (
            ("max_file_bytes", constraints.max_file_bytes, result.file_bytes),
            ("max_params_count", constraints.max_params_count, result.params_count),
            ("max_macs_count", constraints.max_macs_count, result.macs_count),
        )
        if limit is not None
    ]
    if constraints.min_speedup is not None:
        speedup = baseline.latency_ms.typical / result.latency_ms.typical
        checks.append(_entry("min_speedup", constraints.min_speedup, speedup, speedup >= constraints.min_speedup))
    if constraints.max_latency_ms is not None:
        checks.append(_at_most("max_latency_ms", constraints.max_latency_ms, result.latency_ms.typical))
    return tuple(checks)


def outcome(checks: Sequence[ConstraintCheck]) -> Outcome:
    """The job's outcome: whether every target was met."""
    if not checks:
        return "no_constraints"
    return "constraints_met" if all(item.met for item in checks) else "constraints_not_met"


def sentence(item: ConstraintCheck) -> str:
    """One target and what was measured, in words."""
    value = "unknown" if item.value is None else f"{item.value:.6g}"
    return f"{item.name} is {value}, the limit is {item.limit:.6g}"


def rank(checks: Sequence[ConstraintCheck]) -> tuple[bool, int]:
    """How good a candidate is: accuracy kept first, then the number of targets met. Greater is better."""
    accurate = all(item.met for item in checks if item.name.startswith("accuracy"))
    return accurate, sum(item.met for item in checks)


def decisive(constraints: Constraints | None, settings: Sequence[Measured], split: str) -> Measured:
    """The setting that the job's outcome rests on: the best one, or with `settings: all` the worst.

    A setting is better that keeps the accuracy, then one that meets more targets, then one of better quality (by the target's metric, or
    else the first of the split), then one that computes less. Without targets it is the first setting.
    """
    if constraints is None or not any(item.verdict.constraints for item in settings):
        return settings[0]
    wanted = None if constraints.accuracy is None else str(Key(split, constraints.accuracy.metric, constraints.accuracy.output))

    def goodness(item: Measured) -> tuple[bool, int, float, float]:
        metrics = item.figures.metrics
        key = wanted if wanted in metrics else first_of(key for key in metrics if Key.parse(key).split == split)
        metric, value = (None, None) if key is None else (Key.parse(key).metric, metrics[key])
        quality = float("-inf") if metric is None or value is None else -metric.loss(0.0, value)
        cost = item.figures.macs_count
        return (*rank(item.verdict.constraints), quality, float("-inf") if cost is None else -cost)

    return (max if constraints.settings == "best" else min)(settings, key=goodness)


def accuracy_kept(constraint: AccuracyConstraint, baseline: Metrics, result: Metrics, split: str) -> bool:
    """Whether metrics satisfy an accuracy target; false where the metric is missing."""
    return all(item.met for item in _accuracy(constraint, baseline, result, split))


def _accuracy(constraint: AccuracyConstraint, baseline: Metrics, result: Metrics, split: str) -> list[ConstraintCheck]:
    checks = []
    if constraint.max_drop is not None:
        # Of several outputs the one that lost most counts: the overall value hides a loss where another output is worse anyway.
        drops = {key: _drop(constraint, baseline.get(key), result.get(key)) for key in _keys(constraint, baseline, split)}
        key = max(drops, key=lambda key: float("inf") if (lost := drops[key]) is None else lost)
        drop = drops[key]
        # Both are ratios of counts; their difference carries a rounding error that must not decide.
        met = drop is not None and drop <= constraint.max_drop + 1e-9
        checks.append(_entry("accuracy.max_drop", constraint.max_drop, drop, met, metric=key, drop_type=constraint.drop_type))
    if constraint.min is not None:
        metric = catalogue()[constraint.metric]
        values = {key: result.get(key) for key in _keys(constraint, baseline, split)}
        key = max(values, key=lambda key: float("inf") if (value := values[key]) is None else metric.loss(constraint.min or 0.0, value))
        after = values[key]
        met = after is not None and metric.loss(constraint.min, after) <= 1e-9
        checks.append(_entry("accuracy.min", constraint.min, after, met, metric=key))
    return checks


def _keys(constraint: AccuracyConstraint, baseline: Metrics, split: str) -> list[str]:
    """The figures that a target is about: the named output's, or each output's; of a network with one output there is just one."""
    overall = str(Key(split, constraint.metric))
    if constraint.output is not None:
        named = str(Key(split, constraint.metric, constraint.output))
        return [named if named in baseline else overall]
    return [key for key in baseline if key.startswith(f"{overall}.")] or [overall]


def _drop(constraint: AccuracyConstraint, before: float | None, after: float | None) -> float | None:
    """How much was lost; None where one of the two is not known."""
    if before is None or after is None:
        return None
    drop = catalogue()[constraint.metric].loss(before, after)
    if constraint.drop_type == "relative":
        return drop / abs(before) if before else (0.0 if drop <= 0 else float("inf"))
    return drop


def _at_most(name: str, limit: float, value: float | None) -> ConstraintCheck:
    """A figure that could not be counted meets no limit."""
    return _entry(name, limit, value, value is not None and value <= limit)


def _entry(
    name: str,
    limit: float,
    value: float | None,
    met: bool,
    *,
    metric: str | None = None,
    drop_type: Literal["absolute", "relative"] | None = None,
) -> ConstraintCheck:
    # A fall from 0 is infinitely large relative to it; JSON has no such number.
    shown = None if value is not None and abs(value) == float("inf") else value
    return ConstraintCheck(name=name, limit=limit, value=shown, met=bool(met), metric=metric, drop_type=drop_type)
