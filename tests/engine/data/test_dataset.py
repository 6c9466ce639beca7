"""Splits: what is held out, and that test examples are never calibrated on."""

import numpy as np
import pytest

from engine.contract.errors import EngineError
from engine.data.dataset import Data, Split
from engine.data.preprocessing import Preprocessing, PreprocessingSpec
from engine.networks.network import TensorSpec


def split(name: str, count: int, *, labelled: bool = True) -> Split:
    """Examples that are their own index."""
    ready = {"x": Preprocessing(PreprocessingSpec(), (1,), TensorSpec("x", (None, 1)))}
    targets = {"y": np.arange(count) % 4} if labelled else {}
    return Split(name, {"x": np.arange(count, dtype=np.float32)[:, None]}, targets, ready)


def examples(part: Split) -> list[int]:
    return part.batch(np.arange(part.count))[0]["x"].ravel().astype(int).tolist()


@pytest.mark.parametrize("labelled", [True, False])
def test_carved_validation_examples_are_not_trained_on(labelled: bool) -> None:
    data = Data({"train": split("train", 100, labelled=labelled)})
    train, validation = examples(data.train()), examples(data.validation())
    assert sorted(train + validation) == list(range(100))
    assert len(validation) == 10
    assert validation != list(range(10))


def test_the_carved_part_is_the_same_each_time_and_depends_on_the_seed() -> None:
    chosen = [examples(Data({"train": split("train", 200)}).validation(seed=seed)) for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]


def test_every_class_is_held_out() -> None:
    held = Data({"train": split("train", 200)}).validation(0.1)
    _, targets = held.batch(np.arange(held.count))
    assert np.bincount(targets["y"]).tolist() == [5, 5, 5, 5]


@pytest.mark.parametrize("part", ["train", "validation"])
def test_labels_are_those_of_the_splits_own_examples(part: str) -> None:
    held = getattr(Data({"train": split("train", 203)}), part)()
    further = held.take(np.arange(held.count)[::-2])
    for chosen in (held, further):
        own = [example % 4 for example in examples(chosen)]
        strata = chosen.strata()
        assert strata is not None
        assert strata.tolist() == own == chosen.batch(np.arange(chosen.count))[1]["y"].tolist()


def test_a_stored_validation_split_is_used_as_it_is() -> None:
    data = Data({"train": split("train", 10), "validation": split("validation", 3)})
    assert (data.train().count, data.validation().count) == (10, 3)


def test_a_split_that_is_not_there_is_named() -> None:
    with pytest.raises(EngineError, match="no validation split, only train"):
        Data({"train": split("train", 5)}).split("validation")


def test_taking_from_a_taken_part_counts_within_it() -> None:
    part = split("train", 20).take(np.array([4, 6, 8, 10])).take(np.array([3, 1]))
    assert examples(part) == [10, 6]
    assert part.targets_at([0, 1])["y"].tolist() == [2, 2]


def test_one_example_cannot_be_divided() -> None:
    with pytest.raises(EngineError, match="fewer than two"):
        Data({"train": split("train", 1)}).validation()


@pytest.mark.parametrize("dtype", ["float64", "int64", "float32", "uint8"])
def test_values_are_scaled_centered_and_divided_without_loss(dtype: str) -> None:
    far = 1.7e9 if dtype in ("float64", "int64") else 100.0
    stored = (far + np.arange(12).reshape(4, 3)).astype(dtype)
    spec = PreprocessingSpec(scale=0.5, mean=(far / 2, far / 2 + 1, far / 2 - 1), std=(3.0, 0.1, 7.0))
    ready = Preprocessing(spec, (3,), TensorSpec("x", (None, 3)))(stored)
    assert ready.dtype == np.float32
    expected = (stored.astype(np.float64) * 0.5 - np.array(spec.mean)) / np.array(spec.std)
    np.testing.assert_allclose(ready, expected, rtol=1e-5, atol=1e-5)
    nothing = Preprocessing(PreprocessingSpec(scale=0.0, mean=2.0, std=4.0), (3,), TensorSpec("x", (None, 3)))
    assert (nothing(stored) == -0.5).all()
