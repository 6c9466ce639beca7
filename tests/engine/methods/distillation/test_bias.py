"""Biases that make up for the classes that a training did not see."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from engine.contract.errors import EngineError
from engine.contract.heads import Head
from engine.methods.distillation.bias import matching_biases, with_biases
from engine.methods.distillation.distillation import apply
from engine.methods.distillation.spec import Distillation
from engine.training.batches import Batch
from tests.engine.conftest import make_split

HEAD = Head(name="y", indices=(0,), task="classification", target="y", class_axis=1, classes_count=5, scale="logits")


def shares(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).mean(axis=0)


@pytest.mark.parametrize("free", [[0, 1, 2, 3], [2], [0, 3]])
@pytest.mark.parametrize("strength", [1.0, 30.0])
def test_the_mean_answer_has_each_free_class_as_often_as_its_prior(free, strength):
    logits = strength * np.random.default_rng(0).normal(size=(500, 4)) + [3, 0, -8, 1]
    prior = np.array([0.1, 0.2, 0.3, 0.4])
    chosen = np.isin(np.arange(4), free)
    biases = matching_biases(logits, prior, chosen)
    np.testing.assert_allclose(shares(logits + biases)[chosen], prior[chosen], atol=1e-8)
    assert (biases[~chosen] == 0).all()


def test_label_frequencies_as_the_prior_give_the_lowest_cross_entropy():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(400, 3)), rng.integers(0, 3, 400)
    labels[:200] = 2

    def entropy(biases):
        shifted = logits + biases
        return float((np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(400), labels]).mean())

    best = matching_biases(logits, np.bincount(labels, minlength=3) / 400, np.ones(3, dtype=bool))
    assert all(entropy(best) < entropy(best + 0.05 * rng.normal(size=3)) for _ in range(30))


@pytest.mark.parametrize("ends", ["linear", "no bias", "softmax", "relu after"])
def test_biases_are_added_to_the_logits_wherever_these_come_from(ends):
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 5, bias=ends != "no bias"))
    if ends == "relu after":
        module.append(nn.ReLU())
    if ends == "softmax":
        module.append(nn.Softmax(dim=1))
    head = HEAD.model_copy(update={"scale": "probabilities" if ends == "softmax" else "logits"})
    batch = Batch.of(make_split(30, 1), np.arange(30), ["x"], torch.device("cpu"))
    before = module(*batch.inputs).detach()
    biases = np.array([3.0, -1.0, 0.0, 0.5, -2.5])
    changed = with_biases(copy.deepcopy(module), head, biases, batch)
    after = changed(*batch.inputs).detach()
    added = torch.from_numpy(biases).float()
    expected = torch.softmax(before.log() + added, dim=1) if ends == "softmax" else before + added
    torch.testing.assert_close(after, expected, atol=1e-5, rtol=1e-4)
    assert (type(changed) is nn.Sequential) == (ends in ("linear", "softmax")), "a layer takes them where one gives the logits"


def test_a_class_that_was_left_out_comes_back(world, trained_mlp):
    """Hinton et al., 2015, section 3, in small: no example of class 3, and yet it is known by what it is like."""
    setting = world(trained_mlp, train=400)
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    params = Distillation(
        temperature=8.0,
        alpha=1,
        exclude_classes=[3],
        bias_correction="prior_match",
        baselines=["hard_labels"],
        epochs=15,
        learning_rate=0.01,
    )
    result = apply(setting.network.with_module(student), params, setting.context)
    recall = {row["network"]: row["class 3"] for row in setting.context.reported["recall_of_excluded_classes"]}
    assert recall["student"] > recall["hard labels"] + 0.5
    assert recall["student"] > recall["before bias correction"]
    assert recall["student"] > 0.7
    found = setting.context.reported["bias_correction"]
    assert found["biases"][3] > 0
    split = setting.data.splits["train"]
    with torch.no_grad():
        mean = torch.softmax(result.module(torch.from_numpy(split.images)), 1).mean(0)
    assert float(mean[3]) == pytest.approx(float((split.labels == 3).mean()), abs=1e-4)
    assert setting.context.reported["transfer_examples_count"] == int((split.labels != 3).sum())


def test_unlabelled_training_examples_take_the_prior_of_the_teacher(world, trained_mlp):
    setting = world(trained_mlp)
    setting.data.splits["train"].labels = None
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    apply(setting.network.with_module(student), Distillation(alpha=1, bias_correction="prior_match", epochs=1), setting.context)
    images = torch.from_numpy(setting.data.splits["train"].images)
    with torch.no_grad():
        expected = torch.softmax(trained_mlp(images), 1).mean(0)
    assert setting.context.reported["bias_correction"]["prior"] == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize(
    "change",
    [{"exclude_classes": [7]}, {"bias_correction": "prior_match", "class_prior": [0.5, 0.5]}, {"exclude_classes": [0, 1, 2, 3, 4]}],
)
def test_classes_that_are_not_there_are_refused(world, trained_mlp, change):
    setting = world(trained_mlp)
    with pytest.raises(EngineError) as caught:
        apply(setting.network, Distillation(epochs=1, **change), setting.context)
    assert caught.value.code in ("spec_invalid", "dataset_invalid")
