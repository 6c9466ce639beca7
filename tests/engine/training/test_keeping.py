"""Averaged weights follow their recurrence; early stopping ends in time and keeps the best state."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from engine.contract.errors import EngineError
from engine.contract.params import EarlyStopping, TrainingFields
from engine.contract.spec import parse
from engine.training.averages import Averages
from engine.training.loop import Hooks
from engine.training.losses import mean_loss
from engine.training.stopping import Stopping


def test_averages_follow_their_recurrence_and_leave_what_is_not_averaged_alone():
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    module[0].bias.requires_grad_(False)
    averages = Averages(module, 0.6)
    expected = module[0].weight.detach().double().numpy().copy()
    rng = np.random.default_rng(0)
    for step in range(1, 8):
        value = rng.normal(size=(2, 3))
        with torch.no_grad():
            module[0].weight.copy_(torch.from_numpy(value))
            module[1].running_mean.add_(1)
        decay = min(0.6, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
        averages.update(module, step)
    before = copy.deepcopy(module.state_dict())
    with averages.in_place(module):
        np.testing.assert_allclose(module[0].weight.detach().numpy(), expected, atol=1e-6)
        assert torch.equal(module[0].bias, before["0.bias"])
        assert float(module[1].running_mean[0]) < 7
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_a_training_validates_and_ends_with_the_averages(world, trained_mlp, toy_split):
    setting = world(trained_mlp, validation=toy_split(50, 9))
    module, live = copy.deepcopy(trained_mlp), []
    params = TrainingFields(epochs=2, learning_rate=0.05, ema_decay=0.9, schedule="constant")
    hooks = Hooks(on_step=(lambda moment: live.append(moment.module[5].bias.detach().double().numpy().copy()),))
    expected = trained_mlp[5].bias.detach().double().numpy().copy()
    history = setting.context.train(module, params, hooks=hooks)
    for step, value in enumerate(live, 1):
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    np.testing.assert_allclose(module[5].bias.detach().numpy(), expected, atol=1e-5)
    assert setting.context.evaluate(module, "validation")["validation.top1"] == history.epochs[-1]["validation.top1"]


@pytest.mark.parametrize(
    ("metric", "values", "patience", "best", "seen"),
    [
        ("loss", [5, 3, 4, 2.5, 2.6, 2.7, 2.0], 2, 4, 6),
        ("top1", [0.1, 0.5, 0.5, 0.4, 0.9], 2, 2, 4),
        ("loss", [float("nan"), 3, 2, 1], 1, 4, 4),
        ("loss", [5, 4.95, 4.9, 4.85], 2, 1, 3),
    ],
)
def test_the_best_epoch_is_kept_and_the_run_ends_after_patience(metric, values, patience, best, seen):
    stopping = Stopping(EarlyStopping(metric=metric, patience=patience, min_delta=0.2 if values[:2] == [5, 4.95] else 0))
    module = nn.Linear(1, 1)
    for epoch, value in enumerate(values, 1):
        with torch.no_grad():
            module.weight.fill_(epoch)
        if stopping.look(module, {f"validation.{metric}": value}, epoch):
            break
    assert epoch == seen
    stopping.load(module)
    assert (stopping.epoch, module.weight.item()) == (best, best)


@pytest.mark.parametrize("carved", [False, True], ids=["validation split", "part of the training examples"])
def test_what_is_kept_is_the_state_with_the_lowest_loss(world, trained_mlp, toy_split, carved):
    splits = {} if carved else {"validation": toy_split(60, 9)}
    setting = world(trained_mlp, **splits)
    wrong = setting.data.splits["train" if carved else "validation"].labels
    wrong[:20] = (wrong[:20] + 1) % 5  # so that being sure costs something
    module = copy.deepcopy(trained_mlp)
    params = TrainingFields(epochs=30, learning_rate=0.02, batch_size=32, early_stopping={"patience": 3})
    history = setting.context.train(module, params)
    losses = [record["validation.loss"] for record in history.epochs]
    assert len(losses) < 30
    assert len(losses) - history.best_epoch == 3
    assert history.best_epoch == 1 + int(np.argmin(losses))
    context = setting.context
    held = setting.data.validation(seed=0)
    assert mean_loss(module, held, context.loss(module, held), ["x"], context.device) == pytest.approx(min(losses), rel=1e-6)
    assert context.reported["best_epoch"] == history.best_epoch


def test_a_metric_that_is_not_measured_is_named(world, trained_mlp):
    params = TrainingFields(epochs=2, early_stopping={"metric": "miou"})
    with pytest.raises(EngineError) as caught:
        world(trained_mlp).context.train(copy.deepcopy(trained_mlp), params)
    assert caught.value.code == "metric_unknown"
    assert "top1" in caught.value.hint


@pytest.mark.parametrize(
    "step",
    [
        {"method": "train", "epochs": 1, "early_stopping": {"metric": "top2"}},
        {"method": "soft_filter_pruning", "epochs": 1, "ema_decay": 0.9},
        {"method": "sparse_structure_selection", "epochs": 1, "early_stopping": {}},
        {"method": "lottery_ticket", "training": {"epochs": 1, "early_stopping": {}}},
        {"method": "magnitude_pruning", "sparsity": 0.5, "schedule": "gradual", "finetune": {"epochs": 1, "early_stopping": {}}},
        {"method": "train", "epochs": 1, "augment": {}},
    ],
)
def test_specs_that_contradict_themselves_are_refused(step):
    spec, problems = parse({"model": "mdl_a", "dataset": "ds_a", "steps": [step]})
    assert spec is None
    assert len(problems) == 1


def test_mixed_precision_computes_in_bfloat16_and_keeps_wide_weights(world):
    seen = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(64, 5)

        def forward(self, x):
            y = self.head(x.flatten(1))
            if self.training:
                seen.append(y.dtype)
            return y

    module = Spy()
    setting = world(Spy())
    history = setting.context.train(module, TrainingFields(epochs=3, learning_rate=0.01, precision="mixed"))
    assert set(seen) == {torch.bfloat16}
    assert module.head.weight.dtype == torch.float32
    assert history.epochs[-1]["train.loss"] < history.epochs[0]["train.loss"]
    assert [event.code for event in setting.of("warning")] == ["mixed_precision_on_cpu"]
