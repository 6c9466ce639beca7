"""How many examples metrics are measured on, and what that makes of their intervals."""

import numpy as np
import pytest

from engine.contract.heads import Head
from engine.heads.scoring import Scores
from engine.jobs.report import _intervals
from engine.metrics.intervals import wilson_interval

RNG = np.random.default_rng(0)


def head(name: str, index: int, ignored: int | None) -> Head:
    return Head(
        name=name, indices=(index,), task="classification", target=name, class_axis=1, classes_count=3, scale="logits", ignored=ignored
    )


def test_examples_without_a_target_that_counts_are_in_no_interval() -> None:
    outputs = [RNG.normal(size=(40, 3)) for _ in range(2)]
    targets = {"a": RNG.integers(0, 3, 40), "b": RNG.integers(0, 3, 40)}
    targets["a"][:15] = 2
    targets["a"][15:] %= 2
    scores = Scores([head("a", 0, 2), head("b", 1, None)])
    for part in (slice(0, 30), slice(30, 40)):
        scores.add(
            [item[part] for item in outputs], {name: item[part] for name, item in targets.items()}, {}, [item[part] for item in outputs]
        )
    assert scores.counted == {"a": 25, "b": 40}
    metrics = {f"test.{name}": value for name, value in scores.figures().items()}
    right = (outputs[0][15:].argmax(1) == targets["a"][15:]).mean()
    assert metrics["test.top1.a"] == pytest.approx(right)
    found = _intervals({**metrics, "test.top5": None}, count=40, counted=scores.counted)
    assert found["test.top1.a"] == wilson_interval(metrics["test.top1.a"], 25)
    assert found["test.top1.b"] == wilson_interval(metrics["test.top1.b"], 40)
    assert found["test.top1"] == wilson_interval(metrics["test.top1"], 25)
    assert found["test.agreement"] == wilson_interval(1.0, 40)
    assert not {"test.top5", "test.cross_entropy"} & found.keys()


def test_a_place_of_an_example_is_enough() -> None:
    tokens = Head(name="t", indices=(0,), task="token_classification", target="y", class_axis=2, classes_count=3, ignored=-100)
    target = RNG.integers(0, 3, (8, 5))
    target[0], target[1, :4] = -100, -100
    scores = Scores([tokens])
    scores.add([RNG.normal(size=(8, 5, 3))], {"y": target}, {})
    assert scores.counted == {"t": 7}
    assert Scores([tokens]).counted == {}
    assert _intervals({"test.top1": 0.5}, count=8, counted={}) == {"test.top1": wilson_interval(0.5, 8)}
    assert _intervals({"test.top1": 0.5}, count=8, counted={"t": 0}) == {}
