"""How sure an exit is."""

import numpy as np
import pytest
import torch

from engine.contract.errors import EngineError
from engine.contract.heads import Head
from engine.methods.dynamic.exits.confidence import Confidence, check_confident

CLASSES = Head(name="y", indices=(0,), task="classification", class_axis=1, classes_count=4, scale="logits")
DECISION = Head(name="z", indices=(1,), task="binary", threshold=0.0, scale="logits")
LOGITS = torch.tensor([[4.0, 1.0, 0.0, -1.0], [0.1, 0.0, 0.2, 0.1], [-3.0, -3.0, 2.0, 1.5]])


def test_the_log_odds_of_the_likeliest_class() -> None:
    p = torch.softmax(LOGITS.double(), 1).amax(1)
    torch.testing.assert_close(Confidence([CLASSES], "max_probability")(LOGITS).double(), torch.log(p / (1 - p)), rtol=1e-5, atol=1e-6)


def test_the_lead_over_the_second_class_and_the_entropy() -> None:
    shares = torch.sort(torch.softmax(LOGITS.double(), 1), 1, descending=True).values
    margin = Confidence([CLASSES], "margin")(LOGITS).double()
    torch.testing.assert_close(1 - torch.exp(-margin), shares[:, 0] - shares[:, 1], rtol=1e-4, atol=1e-5)
    entropy = Confidence([CLASSES], "entropy")(LOGITS).double()
    torch.testing.assert_close(torch.exp(-entropy), -(shares * shares.log()).sum(1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["max_probability", "margin", "entropy"])
def test_very_sure_examples_are_still_told_apart(kind: str) -> None:
    sure = torch.tensor([[float(value), 0.0, 0.0, 0.0] for value in (20, 25, 30, 40)])
    found = Confidence([CLASSES], kind)(sure)
    assert (found[1:] > found[:-1] + 1).all()
    assert torch.softmax(sure, 1)[1:, 0].unique().numel() == 1, "as probabilities they are equal in float32"


def test_a_temperature_divides_the_logits() -> None:
    confidence = Confidence([CLASSES], "max_probability")
    confidence.temperature.fill_(2.0)
    torch.testing.assert_close(confidence(LOGITS), Confidence([CLASSES], "max_probability")(LOGITS / 2))


def test_probabilities_are_read_as_such_and_a_yes_or_no_by_its_logit() -> None:
    probable = CLASSES.model_copy(update={"scale": "probabilities"})
    torch.testing.assert_close(
        Confidence([probable], "max_probability")(torch.softmax(LOGITS, 1)), Confidence([CLASSES], "max_probability")(LOGITS)
    )
    alone = DECISION.model_copy(update={"indices": (0,)})
    torch.testing.assert_close(Confidence([alone], "max_probability")(torch.tensor([[3.0], [-2.0]])), torch.tensor([3.0, 2.0]))


def test_of_several_outputs_the_least_sure_counts() -> None:
    found = Confidence([CLASSES, DECISION], "max_probability")(LOGITS, torch.tensor([[0.5], [90.0], [-0.1]]))
    alone = Confidence([CLASSES], "max_probability")(LOGITS)
    np.testing.assert_allclose(found.numpy(), [0.5, float(alone[1]), min(0.1, float(alone[2]))], rtol=1e-6)


@pytest.mark.parametrize(
    "head",
    [
        Head(name="v", indices=(0,), task="regression"),
        Head(name="s", indices=(0,), task="segmentation", class_axis=1, classes_count=3),
        Head(name="t", indices=(0,), task="token_classification", class_axis=2, classes_count=3),
    ],
)
def test_outputs_that_are_no_decision_about_the_whole_input_are_refused(head: Head) -> None:
    with pytest.raises(EngineError, match=head.name) as caught:
        check_confident([head])
    assert caught.value.code == "no_confidence"
    assert caught.value.hint
