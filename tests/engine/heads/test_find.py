"""What outputs mean, seen from their values, names and targets: many kinds of network, each read as what it is, or left alone."""

from typing import Any

import numpy as np
import pytest

from engine.contract.errors import EngineError
from engine.contract.heads import Head
from engine.contract.metadata import ModelMetadata
from engine.heads.find import find_heads, outputs_of
from engine.outputs.evidence import Column
from engine.tasks import Task, catalogue, task_of

RNG = np.random.default_rng(0)
N = 40
IMAGES = {"x": RNG.normal(size=(N, 3, 8, 8)).astype(np.float32)}
IDS = {"ids": RNG.integers(0, 12, (N, 6))}
IDS["ids"][0, 0] = 11


def values(*shape: int) -> np.ndarray:
    return RNG.normal(size=(N, *shape)).astype(np.float32)


def softmax(scores: np.ndarray, axis: int) -> np.ndarray:
    exponentials = np.exp(scores)
    return exponentials / exponentials.sum(axis, keepdims=True)


def sigmoid(scores: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-scores))


def numbers(high: int, *shape: int, dtype: str = "int64") -> np.ndarray:
    drawn = RNG.integers(0, high, (N, *shape))
    drawn.flat[0] = high - 1
    return drawn.astype(dtype)


def found(given: dict[str, np.ndarray], targets: dict[str, np.ndarray] | None = None, inputs: Any = None, **declared: Any) -> Any:
    columns = {name: Column.of(name, [array[:30], array[30:]]) for name, array in (targets or {}).items()}
    seen = outputs_of(list(given), list(given.values()), IMAGES if inputs is None else inputs)
    return find_heads(seen, columns, ModelMetadata.model_validate(declared))


def brief(head: Any) -> tuple:
    return head.task, head.class_axis if head.class_axis is not None else head.threshold, head.target


ONE_OUTPUT = {
    "class numbers": (values(5), numbers(5), ("classification", 1, "y")),
    "class numbers in bytes": (values(5), numbers(5, dtype="uint8"), ("classification", 1, "y")),
    "class numbers as floats": (values(5), numbers(5, dtype="float32"), ("classification", 1, "y")),
    "a column of class numbers": (values(5), numbers(5, 1), ("classification", 1, "y")),
    "one-hot rows": (values(5), np.eye(5)[numbers(5)], ("classification", 1, "y")),
    "two classes": (values(2), numbers(2), ("classification", 1, "y")),
    "pooled feature maps": (values(5, 1, 1), numbers(5), ("classification", 1, "y")),
    "one logit": (values(1), numbers(2), ("binary", 0.0, "y")),
    "one logit without a dimension": (values(), numbers(2, dtype="bool"), ("binary", 0.0, "y")),
    "one probability": (sigmoid(values(1)), numbers(2, 1, dtype="float64"), ("binary", 0.5, "y")),
    "several labels": (values(4), numbers(2, 4), ("multi_label", 0.0, "y")),
    "several probabilities": (sigmoid(values(4)), numbers(2, 4, dtype="float32"), ("multi_label", 0.5, "y")),
    "one value": (values(1), values(), ("regression", None, "y")),
    "counts": (values(1), numbers(9), ("regression", None, "y")),
    "several values": (values(3), values(3), ("regression", None, "y")),
    "an image": (values(1, 8, 8), values(8, 8), ("regression", None, "y")),
    "a map of classes": (values(4, 8, 8), numbers(4, 8, 8), ("segmentation", 1, "y")),
    "a map of classes, channels last": (values(8, 9, 4), numbers(4, 8, 9), ("segmentation", 3, "y")),
    "a volume of classes": (values(3, 4, 5, 6), numbers(3, 4, 5, 6), ("segmentation", 1, "y")),
    "a map of yes or no": (values(1, 8, 8), numbers(2, 8, 8), ("segmentation", 0.0, "y")),
    "a map of yes or no with its channel": (sigmoid(values(1, 8, 8)), numbers(2, 1, 8, 8), ("segmentation", 0.5, "y")),
    "maps of labels": (values(3, 8, 8), numbers(2, 3, 8, 8), ("multi_label", 0.0, "y")),
    "a class a token": (values(6, 4), numbers(4, 6), ("token_classification", 2, "y")),
    "a class a sample, channels first": (values(4, 20), numbers(4, 20), ("token_classification", 1, "y")),
    "an embedding of identities": (values(16) / np.linalg.norm(values(16), axis=1, keepdims=True), numbers(5), None),
}


SIGNS = {
    "a sign": (values(1), 2 * numbers(2) - 1, ("binary", 0.0, "y")),
    "a sign as a float": (values(1), 2.0 * numbers(2) - 1, ("binary", 0.0, "y")),
    "several signs": (values(4), 2 * numbers(2, 4) - 1, ("multi_label", 0.0, "y")),
    "one sign of several": (values(5), 2 * np.eye(5)[numbers(5)] - 1, ("classification", 1, "y")),
    "a map of signs": (values(1, 8, 8), 2 * numbers(2, 8, 8) - 1, ("segmentation", 0.0, "y")),
    "values that are signs": (np.tanh(values(1)), 2 * numbers(2) - 1, ("regression", None, "y")),
    "several values that are signs": (np.tanh(values(4)), 2 * numbers(2, 4) - 1, ("regression", None, "y")),
    "signs and zeros": (values(1), numbers(3) - 1, ("regression", None, "y")),
}


@pytest.mark.parametrize("kind", SIGNS)
def test_targets_of_minus_one_and_one_are_a_no_and_a_yes(kind: str) -> None:
    output, target, expected = SIGNS[kind]
    (head,) = found({"out": output}, {"y": target}).heads
    assert brief(head) == expected
    assert head.ignored is None
    if head.decides:
        zeros = task_of(head).prepare(head, {"y": (np.asarray(target) + 1) // 2}, {})
        np.testing.assert_array_equal(task_of(head).prepare(head, {"y": target}, {}), zeros)


def test_outputs_between_minus_one_and_one_decide_where_it_is_declared() -> None:
    (head,) = found({"out": np.tanh(values(1))}, {"y": 2 * numbers(2) - 1}, task="binary").heads
    assert brief(head) == ("binary", 0.0, "y")


def test_values_are_compared_in_the_precision_that_they_are_stored_in() -> None:
    (head,) = found({"out": values(1)}, {"y": values() + 2.0**30}).heads
    for stored in (np.array([2.0**30 + 1, 2.0**30]), np.array([2**30 + 1, 2**30])):
        assert (task_of(head).prepare(head, {"y": stored}, {}) == stored).all()
    assert task_of(head).prepare(head, {"y": np.float32([1])}, {}).dtype == np.float32


@pytest.mark.parametrize("kind", ONE_OUTPUT)
def test_one_output_is_read_by_its_targets(kind: str) -> None:
    output, target, expected = ONE_OUTPUT[kind]
    if expected is None:
        output, expected = output / np.linalg.norm(output, axis=1, keepdims=True), ("embedding", None, "y")
    result = found({"out": output}, {"y": target})
    (head,) = result.heads
    assert brief(head) == expected
    assert head.reason
    assert not result.unused


@pytest.mark.parametrize("number", [255, -100, -1])
@pytest.mark.parametrize("output", ["segmentation", "token_classification"])
def test_places_with_a_customary_number_do_not_count(number: int, output: str) -> None:
    shape = (4, 8, 8) if output == "segmentation" else (6, 4)
    target = numbers(4, *((8, 8) if output == "segmentation" else (6,)))
    target[3] = number
    (head,) = found({"out": values(*shape)}, {"y": target}).heads
    assert (head.task, head.ignored) == (output, number)


@pytest.mark.parametrize("number", [255, -100, -1])
@pytest.mark.parametrize("shape", [(1, 8, 8), (8, 8, 1)])
def test_a_map_of_yes_or_no_may_have_places_that_do_not_count(number: int, shape: tuple[int, ...]) -> None:
    target = numbers(2, 8, 8)
    target[3] = number
    (head,) = found({"out": values(*shape)}, {"y": target}).heads
    assert (head.task, head.threshold, head.ignored, head.labels_axis) == ("segmentation", 0.0, number, None)


def test_labels_that_are_not_known_are_left_out_where_that_is_clear() -> None:
    target = numbers(2, 4)
    target[3, 1] = -1
    (head,) = found({"out": values(4)}, {"y": target}).heads
    assert head.task == "regression"  # -1, 0 and 1 may be values
    (head,) = found({"out": values(4)}, {"y": target}, task="multi_label").heads
    assert (head.task, head.ignored, head.labels_axis) == ("multi_label", -1, 1)


@pytest.mark.parametrize("number", [-1, 99, 7])
def test_a_declared_number_does_not_count_whatever_it_is(number: int) -> None:
    for task, shape, places in (("classification", (4,), ()), ("token_classification", (6, 4), (6,)), ("segmentation", (4, 8, 8), (8, 8))):
        target = numbers(4, *places)
        target[3] = number
        (head,) = found({"out": values(*shape)}, {"y": target}, outputs=[{"name": "out", "task": task, "ignored": number}]).heads
        assert (head.task, head.ignored, head.target) == (task, number, "y")
        target[4] = 5
        with pytest.raises(EngineError, match=r"the label|negative"):
            found({"out": values(*shape)}, {"y": target}, outputs=[{"name": "out", "task": task, "ignored": number}])


def test_numbers_of_named_classes_are_no_values() -> None:
    column = Column.of("y", [numbers(3)], names_classes=True)
    outputs = outputs_of(["out"], [values(1)], IMAGES)
    result = find_heads(outputs, {"y": column}, ModelMetadata())
    assert result.heads[0].task == "fidelity"
    assert find_heads(outputs, {"y": Column.of("y", [numbers(3)])}, ModelMetadata()).heads[0].task == "regression"


WITHOUT_TARGETS = {
    "a vector, the only output": ({"out": values(7)}, IMAGES, [1]),
    "probabilities": ({"out": softmax(values(7), 1)}, IMAGES, [1]),
    "an embedding of length 1": ({"out": values(7) / np.linalg.norm(values(7), axis=1, keepdims=True)}, IMAGES, None),
    "an embedding by its name": ({"pooled_embedding": values(7)}, IMAGES, [None]),
    "an autoencoder": ({"out": values(3, 8, 8)}, IMAGES, [None]),
    "an autoencoder of vectors": ({"out": values(9)}, {"x": values(9)}, [None]),
    "a detector": ({"boxes": values(10, 4), "scores": softmax(values(10, 7), 2)}, IMAGES, [None, 2]),
    "a detector, classes first": ({"out0": values(4, 10), "out1": softmax(values(7, 10), 1)}, IMAGES, [None, 1]),
    "two vectors": ({"first": values(6), "second": values(3)}, IMAGES, [None, None]),
    "four box coordinates first": ({"a": values(4), "b": softmax(values(5), 1)}, IMAGES, [None, 1]),
    "a language model": ({"out": values(6, 12)}, IDS, [2]),
    "a language model, classes first": ({"logits": values(12, 6)}, IDS, [1]),
    "hidden states": ({"last_hidden_state": values(6, 32)}, IDS, [None]),
    "states without a name": ({"out": values(6, 32)}, IDS, [None]),
    "log-probabilities of characters": ({"out": np.log(softmax(values(20, 9), 2))}, IMAGES, [2]),
    "a map of probabilities, channels last": ({"out": softmax(values(8, 9, 4), 3)}, IMAGES, [3]),
    "a map of logits by its name": ({"logits": values(5, 8, 8)}, IMAGES, [1]),
    "a map of logits, channels last": ({"logits": values(8, 8, 5)}, {"x": values(8, 8, 3)}, [3]),
    "a map": ({"out": values(5, 8, 8)}, IMAGES, [None]),
    "one value": ({"out": values(1)}, IMAGES, [None]),
    "class numbers": ({"out": numbers(5)}, IMAGES, [None]),
    "a state with its layers first": ({"out": values(5), "state": values(3, 4)[:2]}, IMAGES, [None, None]),
}


@pytest.mark.parametrize("kind", WITHOUT_TARGETS)
def test_without_targets_only_evidence_makes_classes(kind: str) -> None:
    outputs, inputs, axes = WITHOUT_TARGETS[kind]
    if axes is None:
        outputs, axes = {name: array / np.linalg.norm(array, axis=1, keepdims=True) for name, array in outputs.items()}, [None]
    heads = found(outputs, inputs=inputs).heads
    assert [head.class_axis for head in heads] == axes
    assert all(head.target is None and head.threshold is None and head.reason for head in heads)


UNFIT = {
    "fractions for classes": (values(5), values(), "task regression|is for regression"),
    "labels beyond the classes": (values(3), numbers(8), "label 7, but the model gives only 3 class scores"),
    "negative labels": (values(3), numbers(3) - 1, "negative numbers"),
    "more labels than outputs": (values(4), numbers(2, 6), "not a 0 or 1 for each value"),
    "maps of another size": (values(4, 8, 8), numbers(4, 7, 7), "not one class number for every place"),
    "tokens of another length": (values(6, 4), numbers(4, 9), "not one class number for every position"),
    "another number of values": (values(3), values(2), "not a 0 or 1|not the shape"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_targets_that_do_not_fit_are_left_with_a_sentence_that_says_what_they_are(kind: str) -> None:
    output, target, words = UNFIT[kind]
    result = found({"out": output}, {"y": target})
    assert result.heads[0].target is None
    assert set(result.unused) == {"y"}
    assert any(word in result.unused["y"] for word in words.split("|")), result.unused
    assert "argmax" not in result.unused["y"]
    assert "astype" not in result.unused["y"]


def test_several_outputs_each_with_its_targets() -> None:
    outputs = {"kind": values(5), "box": values(4), "seen": values(1)}
    targets = {"y.box": values(4), "y.kind": numbers(5), "y.seen": numbers(2), "y.ghost": numbers(2)}
    result = found(outputs, targets)
    assert [brief(head) for head in result.heads] == [
        ("classification", 1, "y.kind"),
        ("regression", None, "y.box"),
        ("binary", 0, "y.seen"),
    ]
    assert "no output of the network has this name" in result.unused["y.ghost"]


def test_unnamed_targets_go_to_the_output_that_they_fit() -> None:
    heads = found({"box": values(4), "kind": values(9)}, {"y": numbers(9)}).heads
    assert [head.target for head in heads] == [None, "y"]
    assert [head.class_axis for head in heads] == [None, 1]


def test_a_declaration_goes_before_what_is_seen() -> None:
    (head,) = found({"out": values(5)}, {"y": numbers(5)}, task="embedding").heads
    assert (head.task, head.declared, head.class_axis) == ("embedding", True, None)
    (head,) = found({"out": values(6, 9)}, outputs=[{"name": "out", "task": "token_classification", "class_axis": 1, "weight": 0.5}]).heads
    assert (head.class_axis, head.classes_count, head.weight) == (1, 6, 0.5)
    (head,) = found({"out": values(6, 9)}, {"y": numbers(6, 9)}, outputs=[{"name": "out", "class_axis": 1}]).heads
    assert brief(head) == ("token_classification", 1, "y")
    (head,) = found({"out": sigmoid(values(4))}, {"y": numbers(2, 4)}, outputs=[{"name": "out", "scale": "logits"}]).heads
    assert (head.scale, head.threshold) == ("logits", 0)
    (head,) = found({"out": values(4)}, {"y": np.eye(4)[numbers(4)]}, task="multi_label").heads
    assert brief(head) == ("multi_label", 0, "y")
    (head,) = found({"out": values(7)}, task="fidelity").heads
    assert brief(head) == ("fidelity", None, None)


def test_a_language_model_is_compared_with_its_own_tokens() -> None:
    (head,) = found({"out": values(6, 12)}, inputs=IDS, task="causal_lm").heads
    assert (head.task, head.class_axis, head.from_input, head.has_targets) == ("causal_lm", 2, "ids", True)
    assert found({"out": values(6, 12)}, inputs=IDS).heads[0].has_targets is False


def test_a_language_model_is_not_asked_for_padding() -> None:
    mask = np.arange(6) < RNG.integers(1, 7, (N, 1))
    (head,) = found({"out": values(6, 12)}, inputs={**IDS, "attention_mask": mask.astype(np.int64)}, task="causal_lm").heads
    wanted = task_of(head).prepare(head, {}, {**IDS, "attention_mask": mask.astype(np.int64)})
    assert wanted is not None
    shown = np.zeros_like(mask)
    shown[:, :-1] = mask[:, 1:]
    np.testing.assert_array_equal(wanted != -100, shown)
    np.testing.assert_array_equal(wanted[shown], IDS["ids"][:, 1:][mask[:, 1:]])


def test_a_task_may_stand_at_the_end_of_a_longer_name_and_unknown_ones_are_said() -> None:
    assert found({"out": values(1)}, {"y": numbers(2)}, task="tabular_regression").heads[0].task == "regression"
    result = found({"out": values(5)}, {"y": numbers(5)}, task="sorting_parcels")
    assert result.heads[0].task == "classification"
    assert "sorting_parcels" in result.notes[0]


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"outputs": [{"name": "other", "task": "binary"}]}, "'other', which it does not have"),
        ({"outputs": [{"name": "out", "target": "y.z"}]}, "'y.z', which the dataset does not have"),
        ({"outputs": [{"name": "out", "task": "sorting"}]}, "no task 'sorting'"),
        ({"task": "segmentation"}, "no places in two dimensions"),
        ({"task": "binary"}, "is not one value"),
    ],
)
def test_a_declaration_that_cannot_be_is_refused(declared: dict, words: str) -> None:
    with pytest.raises(EngineError, match=words) as caught:
        found({"out": values(5)}, {"y": numbers(5)}, **declared)
    assert caught.value.code == "metadata_invalid"


class Detection(Task):
    """Boxes and their scores, read together."""

    name = "detection"
    joint = True

    def read(self, outputs: Any, column: Any, declared: Any) -> Head | str:
        if len(outputs) != 2:
            return "it needs boxes and scores"
        return Head(name=self.name, indices=(0, 1), task=self.name, target=column and column.name)


def test_a_joint_task_reads_all_outputs_together_and_only_where_it_is_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {**catalogue(), "detection": Detection()}
    monkeypatch.setattr("engine.heads.find.catalogue", lambda: known)
    outputs = {"boxes": values(10, 4), "scores": values(10, 3)}
    (head,) = found(outputs, {"y.boxes": values(4)}, task="detection").heads
    assert (head.indices, head.target, head.declared) == ((0, 1), "y.boxes", True)
    assert [head.task for head in found(outputs).heads] == ["fidelity", "token_classification"]  # scores by their name
    with pytest.raises(EngineError, match="needs boxes and scores"):
        found({"boxes": values(10, 4)}, task="detection")


def test_positions_without_a_following_token_hold_no_token() -> None:
    vocabulary = 300
    (head,) = found({"out": values(6, vocabulary)}, inputs={"ids": numbers(vocabulary, 6)}, task="causal_lm").heads
    prepared = task_of(head).prepare(head, {}, {"ids": numbers(vocabulary, 6)})
    assert (prepared[:, -1] == head.ignored).all()
    assert head.ignored not in range(vocabulary)


def test_the_least_widths_of_what_is_declared() -> None:
    (head,) = found({"out": values(2)}, {"y": numbers(2, 2)}, task="multi_label").heads
    assert brief(head) == ("multi_label", 0.0, "y")
    for narrow in (values(1), values()):
        with pytest.raises(EngineError, match="does not hold several labels"):
            found({"out": narrow}, {"y": numbers(2)}, task="multi_label")
    (head,) = found({"out": values(2)}, {"y": numbers(5)}, task="embedding").heads
    assert head.task == "embedding"
    (head,) = found({"out": values(6, 4)}, task="token_classification").heads
    assert (head.class_axis, head.classes_count) == (2, 4)
