"""Training from the present weights, from new ones, and with zeros held."""

import copy
import math

import pytest
import torch
from torch import nn

from engine.methods.learning.spec import Train
from engine.methods.learning.train import apply, zero_masks
from engine.networks import masks
from engine.networks.initialization import initialize
from engine.networks.masks import Mask


@pytest.mark.parametrize(
    ("scheme", "std"),
    [("glorot_normal", math.sqrt(2 / 700)), ("kaiming_normal", math.sqrt(2 / 400)), ("default", 1 / math.sqrt(3 * 400))],
)
def test_the_variance_is_the_papers(scheme, std):
    layer = nn.Linear(400, 300)
    initialize(layer, scheme, 0)
    assert float(layer.weight.detach().std()) == pytest.approx(std, rel=0.02)
    assert (layer.bias == 0).all() == (scheme != "default")


def test_drawing_depends_on_the_seed_alone_and_resets_normalization(trained_cnn):
    modules = [copy.deepcopy(trained_cnn) for _ in range(3)]
    for module, seed, noise in zip(modules, (1, 1, 2), (5, 6, 7), strict=True):
        torch.manual_seed(noise)
        assert initialize(module, "glorot_normal", seed) == []
    assert torch.equal(modules[0][0].weight, modules[1][0].weight)
    assert not torch.equal(modules[0][0].weight, modules[2][0].weight)
    norm = modules[0][1]
    assert (norm.weight == 1).all()
    assert (norm.running_mean == 0).all()
    assert int(norm.num_batches_tracked) == 0


def test_masked_layers_get_new_weights_where_they_are_kept():
    module = nn.Sequential(nn.Linear(6, 6))
    masks.hold(module, {"0.weight": Mask(torch.eye(6) > 0)})
    before = module[0].weight.detach().clone()
    initialize(module, "default", 0)
    assert torch.equal(module[0].weight != 0, torch.eye(6) > 0)
    assert not torch.equal(module[0].weight, before)


def test_parameters_that_no_layer_draws_are_named():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.position, self.head = nn.Parameter(torch.ones(3)), nn.Linear(3, 2)

    assert initialize(Positions(), "default", 0) == ["position"]


def test_training_from_scratch_learns(world, trained_mlp):
    setting = world(trained_mlp)
    result = apply(setting.network, Train(initialization="kaiming_normal", epochs=8, learning_rate=5e-3), setting.context)
    before, trained = (stage["test.top1"] for stage in setting.context.reported["stages"])
    assert before < 0.5
    assert trained > before + 0.3
    assert result.module is not trained_mlp


def test_a_ticket_keeps_its_zeros_and_a_plain_run_does_not(world, trained_mlp):
    with torch.no_grad():
        trained_mlp[1].weight[:, ::2] = 0
    for hold in (True, False):
        setting = world(trained_mlp)
        params = Train(epochs=1, hold_zeros=hold, optimizer="sgd", weight_decay=0.1, initialization="glorot_normal")
        weight = masks.fold(apply(setting.network, params, setting.context).module)[1].weight
        assert (weight[:, ::2] == 0).all() == hold
        assert (weight[:, 1::2] != 0).all()


def test_only_mixed_weights_count_as_masked(trained_mlp):
    with torch.no_grad():
        trained_mlp[1].weight[0, 0] = 0
        trained_mlp[3].weight.zero_()
    assert set(zero_masks(trained_mlp)) == {"1.weight"}
