import numpy as np
import pytest

from engine.contract.cost import Facts
from engine.measuring.figures import expected_work, shares
from engine.methods.distillation.spec import Distillation
from engine.methods.pruning.spec import StructuredPruning

FACTS = Facts(train_examples=500)


def test_shares_cover_the_span_in_proportion() -> None:
    assert np.allclose(shares([1, 3], 0.2, 1.0), [(0.2, 0.4), (0.4, 1.0)])


def test_long_training_is_expected_to_take_longer() -> None:
    tuned = StructuredPruning(finetune={"epochs": 2}, iterations=3)  # type: ignore[arg-type]
    assert expected_work(tuned, FACTS) - expected_work(StructuredPruning(), FACTS) == pytest.approx(6)
    assert expected_work(Distillation(epochs=4), FACTS) > expected_work(Distillation(epochs=1), FACTS)
    assert expected_work(Distillation(iterations=1000), FACTS) > expected_work(StructuredPruning(), FACTS)
