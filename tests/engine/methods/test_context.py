"""A context gives seeded randomness, says what is missing, scales progress, and measures a state once."""

import copy

import numpy as np
import pytest
import torch

from engine.contract.errors import EngineError
from engine.contract.method import catalogue
from engine.contract.params import TrainingRun
from engine.methods.step import implementation
from engine.networks import masks
from engine.networks.masks import Mask
from engine.networks.network import Signature, TensorSpec


def test_random_choices_depend_on_seed_step_and_order_alone(world, trained_mlp):
    def draws(seed, step):
        context = world(trained_mlp, seed=seed).context.for_step(step, (0, 1))
        return [context.rng().integers(1 << 30), int(torch.randint(1 << 30, (1,), generator=context.generator()))]

    assert draws(0, 0) == draws(0, 0)
    assert len({draws(0, 0)[0], draws(0, 0)[1], draws(1, 0)[0], draws(0, 1)[0]}) == 4


def test_missing_splits_and_labels_are_said(world, trained_mlp):
    setting = world(trained_mlp)
    with pytest.raises(EngineError, match="'validation' split"):
        setting.context.split("validation")
    setting.data.splits["train"].labels = None
    with pytest.raises(EngineError, match="needs targets"):
        setting.context.labelled("train")


def test_progress_is_the_steps_share_of_the_job(world, trained_mlp):
    setting = world(trained_mlp)
    context = setting.context.for_step(1, (0.5, 1.0))
    with context.part(0.0, 0.5):
        context.progress(0.5)
    context.progress(0.75)
    for number in context.rounds(2):
        context.progress(number == 2)
    assert [event.fraction for event in setting.of("progress")] == [0.625, 0.875, 0.5, 1.0]


def test_evaluation_compares_with_labels_and_with_the_baseline(world, trained_mlp):
    setting = world(trained_mlp)
    figures = setting.context.evaluate(trained_mlp, "test")
    data = setting.data.splits["test"]
    with torch.no_grad():
        right = trained_mlp(torch.from_numpy(data.images)).argmax(1).numpy() == data.labels
    assert figures["test.top1"] == np.mean(right)
    assert figures["test.agreement"] == 1
    changed = copy.deepcopy(trained_mlp)
    with torch.no_grad():
        changed[5].bias[0] += 100
    assert setting.context.evaluate(changed, "test")["test.agreement"] < 0.5


def test_the_same_state_is_measured_once(world, trained_mlp):
    setting = world(trained_mlp)
    first = setting.context.evaluate(trained_mlp, "test")
    reads = setting.data.splits["test"].reads
    assert setting.context.for_step(1, (0, 1)).evaluate(copy.deepcopy(trained_mlp), "test") == first
    assert setting.data.splits["test"].reads == reads


def test_what_the_baselines_file_said_is_not_computed_again(world, trained_mlp):
    setting = world(trained_mlp)
    alone = setting.context.evaluate(trained_mlp, "test")
    test = setting.data.splits["test"]
    with torch.no_grad():
        said = trained_mlp(torch.from_numpy(test.images)).numpy()
    setting = world(trained_mlp)
    setting.context.outputs_of_file = lambda split: [said] if split == "test" else None
    test = setting.data.splits["test"]
    assert setting.context.evaluate(trained_mlp, "test") == pytest.approx(alone)
    assert test.reads < 20
    other = copy.deepcopy(trained_mlp)
    with torch.no_grad():
        other[5].bias[0] += 100
    assert setting.context.evaluate(other, "test")["test.agreement"] < 0.5
    assert test.reads > 200


@pytest.mark.parametrize("wrong", [lambda said: said + np.eye(1, said.shape[1], dtype=np.float32), lambda said: said[:, :2]])
def test_a_module_that_says_something_else_than_its_file_is_measured_itself(world, trained_mlp, wrong):
    setting = world(trained_mlp)
    alone = setting.context.evaluate(trained_mlp, "test")
    with torch.no_grad():
        said = trained_mlp(torch.from_numpy(setting.data.splits["test"].images)).numpy()
    setting = world(trained_mlp)
    setting.context.outputs_of_file = lambda split: [wrong(said)]
    assert setting.context.evaluate(trained_mlp, "test") == alone


def test_without_labels_fidelity_is_left(world, trained_mlp):
    setting = world(trained_mlp)
    setting.data.splits["test"].labels = None
    assert set(setting.context.evaluate(trained_mlp, "test")) == {"test.agreement", "test.sqnr_db", "test.cosine"}


def test_a_training_beside_the_steps_own_leaves_progress_only_and_the_same_weights(world, trained_mlp):
    training = TrainingRun(iterations=6, batch_size=20)
    told, quiet = copy.deepcopy(trained_mlp), copy.deepcopy(trained_mlp)
    setting = world(trained_mlp)
    setting.context.train(told, training, seed=5)
    assert [record["epoch"] for record in setting.context.reported["training"]] == [1.0]
    assert "train.loss" in {event.name for event in setting.of("metric")}
    setting = world(trained_mlp)
    history = setting.context.train(quiet, training, seed=5, report=False, save=False)
    assert setting.context.reported == {}
    assert setting.of("metric") == []
    assert [event.fraction for event in setting.of("progress")][-1] == 1
    assert len(history.epochs) == 1
    assert all(torch.equal(told.state_dict()[name], value) for name, value in quiet.state_dict().items())


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("soft_filter_pruning", {"iterations": 1}),
        ("sparse_structure_selection", {"iterations": 1}),
        ("network_slimming", {"iterations": 1}),
        ("slimmable", {"iterations": 1, "widths": [0.5, 1]}),
        ("autoslim", {"iterations": 1, "budget": {"params_ratio": 0.9}}),
        ("lottery_ticket", {"training": {"iterations": 1}, "rounds": 1, "controls": []}),
    ],
)
@pytest.mark.parametrize("pruned", [False, True])
def test_methods_that_hold_no_zeros_say_that_pruned_weights_come_back(world, trained_cnn, method, fields, pruned):
    if pruned:
        masks.hold(trained_cnn, {"4.weight": Mask(trained_cnn[4].weight.detach() > 0)})
    setting = world(trained_cnn)
    step = catalogue()[method].model_validate({"method": method, **fields})
    implementation(step)(setting.network, step, setting.context)
    assert ("zeros_lost" in {event.code for event in setting.of("warning")}) == pruned


def test_a_step_sees_the_signature_of_the_network_that_it_is_given(world, trained_mlp):
    setting = world(trained_mlp)
    wide = Signature((TensorSpec("x", (None, 64)),), setting.network.signature.outputs)
    changed = setting.network.with_module(trained_mlp, signature=wide)
    assert setting.context.for_step(1, (0, 1)).signature == setting.network.signature
    assert setting.context.for_step(1, (0, 1), changed).signature == wide
    assert changed.with_module(trained_mlp).signature == wide
