from typing import Any

import pytest

from engine.contract import constraints
from engine.contract.figures import Comparison, ConstraintCheck, Figures, Judgement, Latency, Measured, Setting
from engine.contract.spec import AccuracyConstraint, Constraints


def figures(top1: float | None = 0.99, loss: float = 0.1, file_bytes: int = 1000, p50: float = 2.0, **more: Any) -> Figures:
    latency = Latency(p50=p50, p95=p50, batch_size=1, threads=1, runtime="onnxruntime", runs_count=5)
    counted: dict[str, Any] = {"params_count": 100, "nonzero_params_count": 100, "macs_count": 1000, **more}
    return Figures(
        metrics={"test.top1": top1, "test.cross_entropy": loss, "test.agreement": 0.97},
        file_bytes=file_bytes,
        gzip_bytes=file_bytes,
        latency_ms=latency,
        latencies=(latency,),
        **counted,
    )


def check(result: Figures, *, baseline: Figures | None = None, **targets: Any) -> dict[str, bool]:
    accuracy = targets.pop("accuracy", None)
    spec = Constraints(accuracy=accuracy and AccuracyConstraint(**accuracy), **targets)
    return {item.name: item.met for item in constraints.check(spec, baseline or figures(), result, "test")}


@pytest.mark.parametrize(
    ("accuracy", "result", "met"),
    [
        ({"max_drop": 0.01}, figures(top1=0.98), True),  # 0.99 - 0.98 is a little more than 0.01 in binary
        ({"max_drop": 0.01}, figures(top1=0.9799), False),
        ({"max_drop": 0.01}, figures(top1=1.0), True),
        ({"max_drop": 0.02, "drop_type": "relative"}, figures(top1=0.9703), True),
        ({"max_drop": 0.02, "drop_type": "relative"}, figures(top1=0.9701), False),
        ({"metric": "cross_entropy", "max_drop": 0.05}, figures(loss=0.15), True),
        ({"metric": "cross_entropy", "max_drop": 0.05}, figures(loss=0.16), False),
        ({"metric": "cross_entropy", "max_drop": 0.5, "drop_type": "relative"}, figures(loss=0.16), False),
    ],
)
def test_a_drop_counts_against_the_baseline(accuracy: dict[str, Any], result: Figures, met: bool) -> None:
    assert check(result, accuracy=accuracy) == {"accuracy.max_drop": met}


def test_a_minimum_is_a_maximum_for_losses() -> None:
    assert check(figures(top1=0.9), accuracy={"min": 0.9}) == {"accuracy.min": True}
    assert check(figures(top1=0.89), accuracy={"min": 0.9}) == {"accuracy.min": False}
    assert check(figures(loss=0.1), accuracy={"metric": "cross_entropy", "min": 0.1}) == {"accuracy.min": True}
    assert check(figures(loss=0.2), accuracy={"metric": "cross_entropy", "min": 0.1}) == {"accuracy.min": False}
    assert check(figures(), accuracy={"metric": "agreement", "min": 0.98}) == {"accuracy.min": False}


def heads(first: float, second: float, error: float = 1.0) -> Figures:
    measured = {"test.top1": min(first, second), "test.top1.a": first, "test.top1.b": second, "test.rmse": error, "test.rmse.c": error}
    return figures().model_copy(update={"metrics": measured})


def test_of_several_outputs_the_one_that_lost_most_counts_unless_one_is_named() -> None:
    before, after = heads(0.9, 0.99), heads(0.9, 0.91)  # the worst output is as good as before, the other one is not
    spec = Constraints(accuracy=AccuracyConstraint(max_drop=0.02, min=0.9))
    drop, least = constraints.check(spec, before, after, "test")
    assert (drop.met, drop.metric) == (False, "test.top1.b")
    assert drop.value == pytest.approx(0.08)
    assert (least.met, least.metric, least.value) == (True, "test.top1.a", 0.9)
    assert check(after, baseline=before, accuracy={"output": "a", "max_drop": 0.02}) == {"accuracy.max_drop": True}
    assert check(after, baseline=before, accuracy={"output": "b", "max_drop": 0.02}) == {"accuracy.max_drop": False}
    assert check(after, baseline=before, accuracy={"output": "b", "min": 0.95}) == {"accuracy.min": False}
    worse = heads(0.9, 0.99, error=1.2)
    assert check(worse, baseline=before, accuracy={"metric": "rmse", "max_drop": 0.1}) == {"accuracy.max_drop": False}
    assert check(figures(top1=0.98), accuracy={"output": "only", "max_drop": 0.02}) == {"accuracy.max_drop": True}
    gone = figures().model_copy(update={"metrics": {"test.top1.a": 0.9}})
    assert check(gone, baseline=before, accuracy={"max_drop": 0.5}) == {"accuracy.max_drop": False}


def test_sizes_counts_and_speed() -> None:
    result = figures(file_bytes=500, p50=1.0)
    assert check(result, max_file_bytes=500, max_params_count=99, max_macs_count=1000) == {
        "max_file_bytes": True,
        "max_params_count": False,
        "max_macs_count": True,
    }
    assert check(result, min_speedup=2.0, max_latency_ms=0.9) == {"min_speedup": True, "max_latency_ms": False}


def test_a_figure_that_is_not_known_meets_no_target() -> None:
    unknown = figures(top1=None, macs_count=None)
    targets: dict[str, Any] = {"accuracy": {"max_drop": 0.5, "min": 0.1}, "max_macs_count": 1}
    assert set(check(unknown, **targets).values()) == {False}
    assert check(figures(), baseline=unknown, accuracy={"max_drop": 0.5}) == {"accuracy.max_drop": False}


def test_an_infinite_relative_rise_is_missed_and_has_no_value() -> None:
    spec = Constraints(accuracy=AccuracyConstraint(metric="cross_entropy", max_drop=0.5, drop_type="relative"))
    (item,) = constraints.check(spec, figures(loss=0.0), figures(loss=0.1), "test")
    assert (item.met, item.value) == (False, None)


@pytest.mark.parametrize(("before", "after", "met", "value"), [(0.0, 0.0, True, 0.0), (0.0, 0.5, False, None), (0.5, 0.0, True, -1.0)])
def test_relative_drops_from_and_to_nothing(before: float, after: float, met: bool, value: float | None) -> None:
    spec = Constraints(accuracy=AccuracyConstraint(metric="cross_entropy", max_drop=0.5, drop_type="relative"))
    (item,) = constraints.check(spec, figures(loss=before), figures(loss=after), "test")
    assert (item.met, item.value) == (met, value)


def entry(name: str, met: bool) -> ConstraintCheck:
    return ConstraintCheck(name=name, limit=1, value=1, met=met)


def test_the_outcome_says_whether_all_were_met() -> None:
    met, missed = entry("a", True), entry("b", False)
    assert constraints.outcome([]) == "no_constraints"
    assert constraints.outcome([met]) == "constraints_met"
    assert constraints.outcome([met, missed]) == "constraints_not_met"


def test_kept_accuracy_outranks_any_number_of_other_targets() -> None:
    def entries(accuracy: bool, *others: bool) -> list[ConstraintCheck]:
        return [entry("accuracy.max_drop", accuracy), *(entry("max_file_bytes", met) for met in others)]

    assert constraints.rank(entries(True, False, False)) > constraints.rank(entries(False, True, True))
    assert constraints.rank(entries(True, True)) > constraints.rank(entries(True, False))


def test_each_target_carries_limit_and_value() -> None:
    spec = Constraints(accuracy=AccuracyConstraint(max_drop=0.01), max_file_bytes=10)
    accuracy, size = constraints.check(spec, figures(), figures(top1=0.95), "test")
    assert accuracy.limit == 0.01
    assert accuracy.value == pytest.approx(0.04)
    assert accuracy.metric == "test.top1"
    assert size.model_dump() == {"name": "max_file_bytes", "limit": 10, "value": 1000, "met": False}
    assert constraints.sentence(size) == "max_file_bytes is 1000, the limit is 10"


def settings_of(target: Constraints, **each: Figures) -> list[Measured]:
    judged = {name: constraints.check(target, figures(), found, "test") for name, found in each.items()}
    return [
        Measured(
            setting=Setting(name=name),
            figures=found,
            comparison=Comparison.of(figures(), found, ()),
            verdict=Judgement(speed="same", outcome=constraints.outcome(judged[name]), constraints=judged[name]),
        )
        for name, found in each.items()
    ]


@pytest.mark.parametrize(("which", "name"), [("best", "fits"), ("all", "poor")])
def test_the_outcome_rests_on_the_best_setting_or_on_the_worst(which: Any, name: str) -> None:
    target = Constraints(accuracy=AccuracyConstraint(max_drop=0.02), max_macs_count=600, settings=which)
    each = settings_of(
        target, large=figures(0.99, macs_count=1000), fits=figures(0.98, macs_count=600), less=figures(0.975, macs_count=500),
        poor=figures(0.9, macs_count=100),
    )  # fmt: skip
    assert constraints.decisive(target, each, "test").setting.name == name


def test_of_settings_of_one_quality_the_one_that_computes_less_is_better() -> None:
    target = Constraints(max_macs_count=5000)
    each = settings_of(target, large=figures(macs_count=1000), small=figures(macs_count=10))
    assert constraints.decisive(target, each, "test").setting.name == "small"
    assert constraints.decisive(None, each, "test").setting.name == "large"


def test_without_an_accuracy_target_quality_is_that_of_the_splits_first_metric() -> None:
    target = Constraints(max_macs_count=5000)
    each = settings_of(target, right=figures(0.99, macs_count=1000), small=figures(0.5, macs_count=10))
    assert constraints.decisive(target, each, "test").setting.name == "right"


def test_a_loss_is_better_where_it_is_smaller() -> None:
    target = Constraints(accuracy=AccuracyConstraint(metric="cross_entropy", max_drop=1))
    each = settings_of(target, worse=figures(1.0, loss=0.3), better=figures(0.5, loss=0.2))
    assert constraints.decisive(target, each, "test").setting.name == "better"
