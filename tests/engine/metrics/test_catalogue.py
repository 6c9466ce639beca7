"""Every metric equals scikit-learn's or its definition, on the whole set and fed batch by batch in any cut; the catalogue is complete."""

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from engine.contract import metric as metrics
from engine.contract.heads import Head
from engine.contract.metric import Key, accumulator, catalogue, first_of
from engine.contract.spec import AccuracyConstraint
from engine.metrics.confusion import Confusion
from engine.metrics.scores import is_probabilities

RNG = np.random.default_rng(0)
SCORES = np.round(RNG.normal(size=(101, 6)), 1)  # with ties
LABELS = RNG.integers(0, 5, 101)  # class 5 is never the target
YES = RNG.random((101, 3)) < 0.3
CLASSES = Head(name="y", indices=(0,), task="classification", target="y", class_axis=1)
LOGITS = Head(name="y", indices=(0,), task="multi_label", target="y", threshold=0.0, labels_axis=1, scale="logits")
SHARES = Head(name="y", indices=(0,), task="multi_label", target="y", threshold=0.5, labels_axis=1, scale="probabilities")
VALUES = Head(name="y", indices=(0,), task="regression", target="y")


def measured(name, head, outputs, target=None, reference=None, cut=(7, 40)):
    """Fed in three unequal pieces."""
    found = accumulator(name)(head)
    for place in (slice(0, cut[0]), slice(cut[0], cut[1]), slice(cut[1], None)):
        found.add([outputs[place]], None if target is None else {"y": target[place]}, None if reference is None else [reference[place]])
    return found.value()


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def average_precision(scores, wanted):
    """By its definition, threshold by threshold."""
    total, before = 0.0, 0.0
    for threshold in np.unique(scores)[::-1]:
        named = scores >= threshold
        recall = (named & wanted).sum() / wanted.sum()
        total, before = total + (recall - before) * (named & wanted).sum() / named.sum(), recall
    return total


def area(scores, wanted):
    """By its definition, pair by pair."""
    difference = scores[wanted][:, None] - scores[~wanted][None]
    return ((difference > 0) + 0.5 * (difference == 0)).mean()


def f1(answers, wanted):
    return 2 * (answers & wanted).sum() / max(1, answers.sum() + wanted.sum())


def overlap(answers, wanted):
    return (answers & wanted).sum() / max(1, (answers | wanted).sum())


EXPECTED: dict[str, Callable[[], Any]] = {
    "top1": (SCORES.argmax(1) == LABELS).mean,
    "top5": lambda: np.mean([label in np.argsort(-row, kind="stable")[:5] for row, label in zip(SCORES, LABELS, strict=True)]),
    "token_accuracy": (SCORES.argmax(1) == LABELS).mean,
    "pixel_accuracy": (SCORES.argmax(1) == LABELS).mean,
    "cross_entropy": lambda: -np.log(np.exp(SCORES) / np.exp(SCORES).sum(1, keepdims=True))[np.arange(101), LABELS].mean(),
    "perplexity": lambda: math.exp(EXPECTED["cross_entropy"]()),
    "f1_macro": lambda: np.mean([f1(SCORES.argmax(1) == c, c == LABELS) for c in range(6)]),
    "miou": lambda: np.mean([overlap(SCORES.argmax(1) == c, c == LABELS) for c in range(6)]),
    "exact_match": (SCORES.argmax(1) == LABELS).mean,
    "auroc": lambda: np.mean([area(_log_softmax()[:, c], c == LABELS) for c in range(5)]),
    "average_precision": lambda: np.mean([average_precision(_log_softmax()[:, c], c == LABELS) for c in range(5)]),
}


def _log_softmax():
    return (SCORES - np.log(np.exp(SCORES).sum(1, keepdims=True))).astype(np.float32)


@pytest.mark.parametrize("name", EXPECTED)
def test_metrics_of_classes_equal_their_definitions(name):
    assert measured(name, CLASSES, SCORES, LABELS) == pytest.approx(EXPECTED[name](), abs=1e-9)


def test_metrics_of_independent_labels_equal_their_definitions():
    logits = SCORES[:, :3]
    answers = logits > 0
    likelihood = np.where(YES, sigmoid(logits), 1 - sigmoid(logits))
    for head, scores in ((LOGITS, logits), (SHARES, sigmoid(logits))):
        assert measured("exact_match", head, scores, YES) == (answers == YES).all(1).mean()
        assert measured("cross_entropy", head, scores, YES.astype(np.float32)) == pytest.approx(-np.log(likelihood).mean())
        assert measured("f1_macro", head, scores, YES) == pytest.approx(np.mean([f1(answers[:, c], YES[:, c]) for c in range(3)]))
        assert measured("auroc", head, scores, YES) == pytest.approx(np.mean([area(logits[:, c], YES[:, c]) for c in range(3)]))
        expected = np.mean([average_precision(logits[:, c], YES[:, c]) for c in range(3)])
        assert measured("average_precision", head, scores, YES) == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(101,), (101, 1)])
def test_one_output_is_right_on_its_side_of_the_threshold(shape):
    logits, labels = SCORES[:, 0].reshape(shape), LABELS % 2
    logit, share = (head.model_copy(update={"task": "binary", "labels_axis": None}) for head in (LOGITS, SHARES))
    assert measured("top1", logit, logits, labels) == ((SCORES[:, 0] > 0) == labels).mean()
    assert measured("top1", share, sigmoid(logits), labels) == ((SCORES[:, 0] > 0) == labels).mean()
    assert measured("f1_macro", logit, logits, labels) == pytest.approx(np.mean([f1((SCORES[:, 0] > 0) == c, labels == c) for c in (0, 1)]))


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_classes_are_read_along_their_axis_and_places_that_are_ignored_do_not_count(axis):
    scores = RNG.normal(size=(6, 4, 5, 3))
    target = RNG.integers(0, 3, (6, 4, 5))
    target[:, 1] = 255
    rows, labels = scores.reshape(-1, 3), target.reshape(-1)
    counted = labels != 255
    head = CLASSES.model_copy(update={"class_axis": axis, "ignored": 255})
    moved = np.moveaxis(scores, -1, axis)
    for name in ("top1", "cross_entropy", "miou", "f1_macro"):
        plain = measured(name, CLASSES, rows[counted], labels[counted])
        assert measured(name, head, moved, target, cut=(1, 4)) == pytest.approx(plain)
    assert measured("agreement", head, moved, reference=moved * 3, cut=(1, 4)) == 1
    worse = np.where(np.arange(3) == rows.argmax(1)[:, None], -9, rows).reshape(scores.shape)
    assert measured("agreement", head, moved, reference=np.moveaxis(worse, -1, axis), cut=(1, 4)) == 0


def test_probabilities_that_were_rounded_are_probabilities_still():
    shares = np.exp(SCORES) / np.exp(SCORES).sum(1, keepdims=True)
    rounded = np.round(shares * 64) / 64  # an 8-bit softmax: rows do not add up to 1
    assert np.abs(rounded.sum(1) - 1).max() > 0.01
    own = np.maximum(rounded[np.arange(101), LABELS], 1e-12)
    head = CLASSES.model_copy(update={"scale": "probabilities"})
    assert measured("cross_entropy", head, rounded, LABELS) == pytest.approx(-np.log(own).mean())
    likely = np.full((101, 2), 0.5)  # logits that happen to add up to 1
    assert measured("cross_entropy", CLASSES.model_copy(update={"scale": "logits"}), likely * [0.2, 1.8], LABELS % 2) == pytest.approx(
        np.logaddexp(0, np.where(LABELS % 2, -0.8, 0.8)).mean()
    )


@pytest.mark.parametrize("layout", [(0, 1, 2, 3), (0, 2, 3, 1)])
@pytest.mark.parametrize("ignored", [None, 255])
def test_a_map_of_yes_or_no_has_two_classes_wherever_its_channel_stands(layout, ignored):
    logits, wanted = RNG.normal(size=(101, 1, 4, 5)), (RNG.random((101, 4, 5)) < 0.3).astype(np.float32)
    if ignored is not None:
        wanted[:, 0] = ignored
    yes, counted = logits[:, 0] > 0, wanted != 255
    pairs = [(yes[counted] == one, wanted[counted] == one) for one in (0, 1)]
    head = Head(name="y", indices=(0,), task="segmentation", target="y", threshold=0.0, scale="logits", ignored=ignored)
    outputs = logits.transpose(layout)
    assert measured("miou", head, outputs, wanted) == pytest.approx(np.mean([overlap(*pair) for pair in pairs]))
    assert measured("f1_macro", head, outputs, wanted[:, None]) == pytest.approx(np.mean([f1(*pair) for pair in pairs]))
    assert measured("pixel_accuracy", head, outputs, wanted) == (pairs[1][0] == pairs[1][1]).mean()
    likelihood = np.where(wanted == 1, sigmoid(logits[:, 0]), 1 - sigmoid(logits[:, 0]))[counted]
    assert measured("cross_entropy", head, outputs, wanted) == pytest.approx(-np.log(likelihood).mean())


def test_labels_that_are_not_known_do_not_count():
    known, logits = RNG.random(YES.shape) < 0.7, SCORES[:, :3]
    target = np.where(known, YES, -1).astype(np.float32)
    head = LOGITS.model_copy(update={"ignored": -1})
    columns = [(logits[known[:, c], c], YES[known[:, c], c]) for c in range(3)]
    for name, figure in (("average_precision", average_precision), ("auroc", area), ("f1_macro", lambda one, own: f1(one > 0, own))):
        assert measured(name, head, logits, target) == pytest.approx(np.mean([figure(*column) for column in columns])), name
    assert measured("exact_match", head, logits, target) == (((logits > 0) == YES) | ~known).all(1).mean()


def test_a_class_of_a_single_place_counts_and_one_that_never_occurs_does_not():
    scores = np.eye(4)[[0, 0, 1, 1, 1]]
    assert measured("miou", CLASSES, scores, np.array([0, 0, 1, 1, 2])) == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert measured("miou", CLASSES, scores[:1], np.array([0])) == 1


def test_metrics_of_values_equal_their_definitions_even_far_from_zero():
    target = RNG.normal(size=(101, 2)) * [1, 50] + [1e6, -3]
    outputs = target + RNG.normal(size=target.shape) * 0.5
    error = outputs - target
    assert measured("mae", VALUES, outputs, target) == pytest.approx(np.abs(error).mean())
    assert measured("rmse", VALUES, outputs, target) == pytest.approx(np.sqrt((error**2).mean()))
    columns = 1 - (error**2).sum(0) / ((target - target.mean(0)) ** 2).sum(0)
    assert measured("r2", VALUES, outputs, target) == pytest.approx(columns.mean(), abs=1e-9)
    assert measured("r2", VALUES, outputs[:, :1], np.full((101, 1), 3.0)) is None
    assert measured("r2", VALUES, outputs[:, 0], target[:, 0]) == pytest.approx(columns[0], abs=1e-9)


def test_recall_finds_the_nearest_of_the_same_class():
    centres = RNG.normal(size=(9, 8)) * 4
    labels = np.repeat(np.arange(9), 3)
    near = centres[labels] + 0.01 * RNG.normal(size=(27, 8))
    assert measured("recall_at_1", VALUES, near, labels, cut=(5, 11)) == 1
    alone = np.append(labels, 99)  # has no other one of its class
    assert measured("recall_at_1", VALUES, np.concatenate([near, near[:1]]), alone, cut=(5, 11)) < 1
    shuffled = np.roll(labels, 1)
    first = near / np.linalg.norm(near, axis=1, keepdims=True)
    likeness = first @ first.T - 9 * np.eye(27)
    assert measured("recall_at_1", VALUES, near, shuffled, cut=(5, 11)) == (shuffled[likeness.argmax(1)] == shuffled).mean()
    order = np.argsort(-likeness, axis=1)[:, :10]
    expected = (shuffled[order] == shuffled[:, None]).any(1).mean()
    assert measured("recall_at_k", VALUES, near, shuffled, cut=(5, 11)) == expected


def test_fidelity_is_one_power_ratio_a_mean_cosine_and_equal_decisions():
    noisy = SCORES + 0.1 * RNG.normal(size=SCORES.shape)
    expected = 10 * np.log10((SCORES**2).sum() / ((SCORES - noisy) ** 2).sum())
    assert measured("sqnr_db", CLASSES, noisy, reference=SCORES) == pytest.approx(expected)
    cosines = (SCORES * noisy).sum(1) / np.linalg.norm(SCORES, axis=1) / np.linalg.norm(noisy, axis=1)
    assert measured("cosine", CLASSES, noisy, reference=SCORES) == pytest.approx(cosines.mean())
    one = SCORES[:, 0]
    expected = one @ noisy[:, 0] / np.linalg.norm(one) / np.linalg.norm(noisy[:, 0])
    for shape in ((101,), (101, 1)):  # a positive number has no direction: all of them have
        assert measured("cosine", VALUES, noisy[:, 0].reshape(shape), reference=one.reshape(shape)) == pytest.approx(expected)
    assert measured("agreement", CLASSES, noisy, reference=SCORES) == (noisy.argmax(1) == SCORES.argmax(1)).mean()
    assert measured("agreement", VALUES, noisy, reference=SCORES) is None
    assert measured("agreement", VALUES, LABELS, reference=LABELS[::-1]) == (LABELS[::-1] == LABELS).mean()
    assert measured("sqnr_db", VALUES, LABELS, reference=LABELS) is None


def test_a_direction_is_a_property_of_the_metric():
    known = catalogue()
    assert {name for name, metric in known.items() if metric.goal == "min"} == {"cross_entropy", "perplexity", "mae", "rmse"}
    assert known["rmse"].loss(1.0, 3.0) == 2 == known["r2"].loss(3.0, 1.0)
    assert (known["rmse"].worst([1, 3]), known["r2"].worst([1, 3])) == (3, 1)


def test_each_label_is_counted_in_all_batches():
    head = CLASSES.model_copy(update={"class_axis": None, "classes_count": None, "threshold": 0.0, "labels_axis": 1, "ignored": 255})
    outputs, target = RNG.normal(size=(30, 4)), RNG.integers(0, 2, (30, 4))
    target[:7, 2] = 255
    found = Confusion(head)
    for part in (slice(0, 12), slice(12, 30)):
        found.add([outputs[part]], {"y": target[part]}, None)
    assert found.labels_count.tolist() == [30, 30, 23, 30]
    known, yes = target != 255, outputs > 0
    assert found.right.tolist() == (known & yes & (target == 1)).sum(0).tolist()
    assert found.named.tolist() == (known & yes).sum(0).tolist()
    assert found.wanted.tolist() == (known & (target == 1)).sum(0).tolist()


def test_metrics_are_shown_in_this_order():
    of_tasks = "top1 average_precision exact_match token_accuracy perplexity miou pixel_accuracy r2 rmse mae recall_at_1 recall_at_k"
    assert list(catalogue()) == [*of_tasks.split(), *["top5", "f1_macro", "auroc", "cross_entropy", "agreement", "cosine", "sqnr_db"]]


def test_rows_with_negative_numbers_are_no_probabilities_whatever_they_add_up_to():
    assert not is_probabilities(np.array([[1.5, -0.5], [0.5, 0.5]]))
    assert is_probabilities(np.array([[1.0, 0.0], [0.5, 0.5]]))
    assert not is_probabilities(np.array([[1.0, 0.01], [0.5, 0.5]]))
    assert not is_probabilities(np.zeros((0, 2)))


def test_a_class_of_one_example_counts_and_one_of_none_does_not():
    rows, labels = np.array([[3.0, 1.0, 0.0], [2.0, 3.0, 0.0], [1.0, 0.5, 9.0], [5.0, 0.0, 0.0]]), np.array([0, 1, 1, 1])
    logs = rows - np.log(np.exp(rows).sum(1, keepdims=True))
    expected = np.mean([area(logs[:, c], labels == c) for c in (0, 1)])
    assert measured("auroc", CLASSES, rows, labels, cut=(1, 3)) == pytest.approx(expected)
    assert area(logs[:, 0], labels == 0) != area(logs[:, 1], labels == 1)


def test_recall_of_more_neighbours_than_there_are_is_that_of_all():
    def recall(name: str, count: int, labels: list[int]) -> float | None:
        found = accumulator(name)(VALUES)
        found.add([np.eye(4)[:count] + 1], {"y": np.array(labels)}, None)
        return found.value()

    assert recall("recall_at_k", 4, [0, 1, 0, 1]) == 1
    assert recall("recall_at_1", 1, [0]) is None
    assert recall("recall_at_1", 2, [0, 0]) == 1


def test_every_metric_has_its_implementation_and_its_place():
    for name in catalogue():
        assert accumulator(name)(CLASSES).value() is None
    assert first_of(["test.sqnr_db", "test.top1.box", "test.agreement"]) == "test.agreement"
    assert first_of(["params_count"]) is None


@pytest.mark.parametrize("key", ["test.top1", "validation.sqnr_db.box", "test.mae.head.logits.1"])
def test_keys_are_read_and_written(key):
    assert str(Key.parse(key)) == key
    assert Key.parse("test.mae.head.logits.1") == ("test", "mae", "head.logits.1")


def test_a_spec_names_metrics_of_the_catalogue_only():
    assert AccuracyConstraint(metric="miou", output="mask", max_drop=0.02).output == "mask"
    with pytest.raises(ValueError, match=r"did you mean 0\.02"):
        AccuracyConstraint(metric="miou", max_drop=2)
    with pytest.raises(ValueError, match="compares with the baseline"):
        AccuracyConstraint(metric="agreement", max_drop=0.1)
    with pytest.raises(ValueError, match="Input should be"):
        AccuracyConstraint(metric="accuracy", min=0.5)


def test_the_catalogue_loads_no_numpy_and_the_metrics_no_torch():
    code = "import sys, engine.contract.metric as m; m.catalogue(); print('numpy' in sys.modules); [m.accumulator(n) for n in m.catalogue()]; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split() == ["False", "False"]
    assert metrics.catalogue() is catalogue()
