"""Class by class, how many examples original and result get right, and what is taken for what."""

import numpy as np
import pytest

from engine.contract.heads import Head
from engine.heads.classes import MOST_SHOWN, ClassChanges

HEAD = Head.model_validate({"name": "logits", "task": "classification", "indices": [0], "class_axis": 1, "target": "y", "reason": "test"})


def one_hot(numbers, classes):
    return np.eye(classes, dtype=np.float32)[numbers]


def counted(target, before, after, classes, batch=3):
    found = ClassChanges((HEAD,))
    for start in range(0, len(target), batch):
        part = slice(start, start + batch)
        found.add([one_hot(after[part], classes)], {"y": np.array(target[part])}, {}, [one_hot(before[part], classes)])
    return found.changes()


def test_each_class_is_counted_and_the_loser_stands_first():
    target = [0, 0, 0, 1, 1, 2, 2, 2]
    before = [0, 0, 0, 1, 0, 2, 2, 1]
    after = [0, 2, 2, 1, 1, 2, 2, 1]
    found = counted(target, before, after, 4)
    assert [(item.class_number, item.examples_count, item.right_before_count, item.right_after_count) for item in found] == [
        (0, 3, 3, 1),
        (2, 3, 2, 2),
        (1, 2, 1, 2),
    ], "a class without examples says nothing"
    assert [item.mostly_taken_for for item in found] == [2, None, None]


@pytest.mark.parametrize("seed", range(3))
def test_the_sums_are_those_of_the_accuracies(seed):
    generator = np.random.default_rng(seed)
    target, before, after = (generator.integers(0, 7, 200) for _ in range(3))
    found = counted(target, before, after, 7, batch=64)
    assert sum(item.right_before_count for item in found) == (before == target).sum()
    assert sum(item.right_after_count for item in found) == (after == target).sum()
    assert sum(item.examples_count for item in found) == 200


def test_of_many_classes_those_that_changed_most_are_told():
    classes = 4 * MOST_SHOWN
    target = np.arange(classes)
    after = np.where(target % 4 == 0, (target + 1) % classes, target)
    found = counted(target, target, after, classes, batch=64)
    assert len(found) == MOST_SHOWN
    assert all(item.class_number % 4 == 0 and item.right_after_count == 0 for item in found)
