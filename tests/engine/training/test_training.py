"""The training loop is deterministic, resumable by position, and says when it diverges."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from engine.contract.errors import EngineError
from engine.contract.params import TrainingFields
from engine.training.loop import Hooks, build_optimizer, iterations_of, learning_rate


def weights(module):
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


def test_same_seed_same_weights_whatever_the_global_generators_say(world, trained_mlp):
    module = nn.Sequential(trained_mlp, nn.Dropout(0.3))
    results = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        np.random.seed(noise)
        copied = copy.deepcopy(module)
        world(module).context.train(copied, TrainingFields(epochs=2))
        results.append(weights(copied))
    assert torch.equal(*results)
    other = copy.deepcopy(module)
    world(module, seed=7).context.train(other, TrainingFields(epochs=2))
    assert not torch.equal(results[0], weights(other))


def test_the_global_generator_is_left_alone(world, trained_mlp):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    world(trained_mlp).context.train(copy.deepcopy(trained_mlp), TrainingFields(epochs=1))
    assert torch.equal(torch.rand(1), expected)


def test_learning_lowers_the_loss_and_every_epoch_is_reported(world, trained_mlp, toy_split):
    setting = world(trained_mlp, validation=toy_split(50, 9))
    history = setting.context.train(copy.deepcopy(trained_mlp), TrainingFields(epochs=3, learning_rate=3e-3))
    losses = [record["train.loss"] for record in history.epochs]
    assert losses[-1] < losses[0]
    points = [event for event in setting.of("metric") if event.name == "train.loss"]
    assert [(point.step, point.value) for point in points] == [(i + 1, loss) for i, loss in enumerate(losses)]
    assert "validation.top1" in history.epochs[-1]
    assert setting.of("progress")[-1].fraction == 1


def test_a_run_may_begin_in_the_middle_and_ends_where_the_whole_run_ends(world, trained_mlp):
    """Plain SGD has no state, so k steps and then the rest equal one run: same examples, same rates."""
    params = TrainingFields(iterations=11, optimizer="sgd", momentum=0, learning_rate=0.05, batch_size=48)
    whole, halves = copy.deepcopy(trained_mlp), copy.deepcopy(trained_mlp)
    context = world(trained_mlp).context
    context.train(whole, params, seed=5)
    captured = {}

    def keep(moment):
        if moment.iteration == 6:
            captured.update(copy.deepcopy(moment.module.state_dict()))

    context.train(halves, params, seed=5, hooks=Hooks(on_step=(keep,)))
    halves.load_state_dict(captured)
    history = context.train(halves, params, seed=5, start_iteration=6)
    assert history.iterations == 5
    assert torch.equal(weights(whole), weights(halves))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1, 1, 1, 1]),
        ("linear", [1, 0.75, 0.5, 0.25]),
        ("cosine", [1, 0.5 * (1 + math.cos(math.pi / 4)), 0.5, 0.5 * (1 + math.cos(3 * math.pi / 4))]),
        ("multistep", [1, 1, 0.1, 0.01]),
    ],
)
def test_schedules(schedule, expected):
    params = TrainingFields(iterations=4, learning_rate=1.0, schedule=schedule)
    assert [learning_rate(params, i, 4) for i in range(4)] == pytest.approx(expected)


def test_warmup_rises_linearly_before_the_schedule():
    params = TrainingFields(iterations=8, learning_rate=1.0, schedule="linear", warmup_iterations=4)
    assert [learning_rate(params, i, 8) for i in range(8)] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25])


def test_length_in_epochs_counts_the_incomplete_batch():
    assert iterations_of(TrainingFields(epochs=2, batch_size=10), 25) == 6
    assert iterations_of(TrainingFields(iterations=4, batch_size=10), 25) == 4


def test_weight_decay_spares_biases_and_normalization(trained_cnn):
    optimizer = build_optimizer(trained_cnn, TrainingFields(epochs=1, weight_decay=0.1))
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    expected = {id(layer.weight) for layer in trained_cnn.modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    assert decayed == expected


def test_a_last_batch_of_one_example_does_not_break_batch_normalization(world):
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.Linear(6, 5))
    world(module, train=33).context.train(module, TrainingFields(epochs=1, batch_size=32))
    assert torch.isfinite(weights(module)).all()
    assert int(module[2].num_batches_tracked) == 1


def test_divergence_has_a_name_and_advice(world, trained_mlp):
    with pytest.raises(EngineError) as caught:
        world(trained_mlp).context.train(
            copy.deepcopy(trained_mlp), TrainingFields(epochs=3, optimizer="sgd", learning_rate=1000, schedule="constant")
        )
    assert caught.value.code == "training_diverged"
    assert "learning_rate" in caught.value.hint


def test_clipping_bounds_the_step(world, trained_mlp):
    moved = []
    for limit in (None, 1e-3):
        module = copy.deepcopy(trained_mlp)
        params = TrainingFields(iterations=1, optimizer="sgd", momentum=0, learning_rate=1.0, gradient_clip_norm=limit)
        world(trained_mlp).context.train(module, params)
        moved.append(float((weights(module) - weights(trained_mlp)).norm()))
    assert moved[1] == pytest.approx(1e-3, rel=1e-3)
    assert moved[0] > 10 * moved[1]


def test_softmax_outputs_are_not_softmaxed_again(world, trained_mlp):
    """A network that ends in a softmax trains to exactly the same weights as its logits do."""
    plain, ended = copy.deepcopy(trained_mlp), nn.Sequential(copy.deepcopy(trained_mlp), nn.Softmax(dim=1))
    params = TrainingFields(iterations=3, optimizer="sgd", momentum=0)
    world(trained_mlp).context.train(plain, params)
    world(ended).context.train(ended, params)
    torch.testing.assert_close(weights(plain), weights(ended), atol=1e-6, rtol=1e-4)


def test_labels_beyond_the_classes_are_a_shape_mismatch(world, trained_mlp):
    setting = world(trained_mlp)
    setting.data.splits["train"].labels[0] = 5
    with pytest.raises(EngineError, match="label 5"):
        setting.context.train(copy.deepcopy(trained_mlp), TrainingFields(epochs=1))


def test_an_output_that_the_targets_do_not_fit_cannot_be_trained_on_them(world):
    module = nn.Sequential(nn.Conv2d(1, 3, 1))
    with pytest.raises(EngineError) as caught:
        world(module).context.train(module, TrainingFields(epochs=1))
    assert caught.value.code == "shape_mismatch"
