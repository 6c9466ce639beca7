"""Soft filter pruning zeroes the weakest filters by norm, lets them come back, and really removes what is zero at the end."""

import copy

import pytest
import torch
from torch import nn

from engine.methods.pruning import soft_filter_pruning
from engine.methods.pruning.soft_filter_pruning import apply, silence, weakest
from engine.methods.pruning.spec import SoftFilterPruning
from engine.structure.constants import absorb
from engine.structure.graph import ChannelGraph

INPUTS = (torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)),)


def params(**changes):
    return SoftFilterPruning(**({"pruning_ratio": 0.5, "epochs": 3} | changes))


def groups_of(module):
    graph = ChannelGraph(module, INPUTS)
    return graph, {group.name: group for group in graph.groups}


def test_filters_are_ranked_by_their_norm():
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 4, bias=False), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        module[1].weight.zero_()
        # l1 norms 8, 6, 7, 5; l2 norms 1, 6, 5, 5.
        for row, values in enumerate(([1.0 / 8] * 64, [6.0], [3.0, 4.0], [5.0])):
            module[1].weight[row, : len(values)] = torch.tensor(values)
    group = groups_of(module)[1]["1"]
    assert sorted(weakest(group, params()).tolist()) == [0, 2]
    assert sorted(weakest(group, params(importance="magnitude_l1")).tolist()) == [1, 3]
    assert weakest(group, params(pruning_ratio=0.9, min_channels=3)).tolist() == [0]
    assert len(weakest(group, params(pruning_ratio=0.99))) == 3, "no layer is emptied"


def test_after_every_epoch_the_share_is_zero_and_filters_come_back(world, trained_cnn, monkeypatch):
    setting = world(trained_cnn, train=300)
    seen = []
    original = soft_filter_pruning._zero_weakest

    def spy(groups, zero, chosen):
        before = {group.name: group.parts[0].layer.weight.detach().flatten(1).norm(dim=1).clone() for group in groups}
        previous = dict(zero)
        original(groups, zero, chosen)
        for group in groups:
            norms = group.parts[0].layer.weight.detach().flatten(1).norm(dim=1)
            assert int((norms == 0).sum()) == len(norms) // 2
            if group.name in previous:
                seen.append((before[group.name][previous[group.name]] > 0).all())
        return 0

    monkeypatch.setattr(soft_filter_pruning, "_zero_weakest", spy)
    apply(setting.network, params(optimizer="sgd", learning_rate=0.05), setting.context)
    assert len(seen) == 4, "two layers, two later epochs"
    assert all(seen), "what was zeroed had learned again by the next epoch"


def test_removal_computes_what_the_zeroed_network_computed(world):
    """Without padding and pooling at borders the constant behind batch normalization moves into the next bias exactly."""
    module = nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Sigmoid(), nn.Conv2d(8, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Flatten(), nn.Linear(96, 12), nn.Tanh(), nn.Linear(12, 5),
    )  # fmt: skip
    setting = world(module)
    result = apply(setting.network, params(learning_rate=0.01), setting.context).module
    assert [result[i].weight.shape[0] for i in (0, 3, 7, 9)] == [4, 3, 6, 5]
    stages = {stage["stage"]: stage for stage in setting.context.reported["stages"]}
    assert stages["removed"]["test.sqnr_db"] == pytest.approx(stages["zeroed"]["test.sqnr_db"], abs=1e-3)
    assert stages["removed"]["test.cross_entropy"] == pytest.approx(stages["zeroed"]["test.cross_entropy"], abs=1e-5)


def test_absorbing_constants_is_exact_for_grouped_convolutions_too(network_of):
    module = network_of("grouped")
    with torch.no_grad():
        module.stem.padding = (0, 0)
        module.grouped.padding = (0, 0)
    graph, groups = groups_of(module)
    (group,) = [group for group in graph.groups if "stem" in group.layers]
    channels = group.units[:2].reshape(-1)
    silence(group, channels)
    with torch.no_grad():
        module.stem.bias[channels] = 0.7
        expected = module(*INPUTS)
    absorb(module, [(group, channels)], INPUTS)
    graph.remove(group, channels.tolist())
    assert torch.allclose(module(*INPUTS), expected, atol=1e-5)
    assert groups


def test_every_shape_of_network_shrinks_and_runs(world, shaped):
    setting = world(shaped)
    before = copy.deepcopy(shaped.state_dict())
    result = apply(setting.network, params(epochs=1), setting.context).module
    assert result(*INPUTS).shape == (4, 5)
    report = setting.context.reported
    assert report["after"]["params_count"] < report["before"]["params_count"]
    assert any(layer["channels_after"] < layer["channels_before"] for layer in report["layers"].values())
    assert all(layer["channels_after"] >= 1 for layer in report["layers"].values())
    assert all(torch.equal(value, before[name]) for name, value in shaped.state_dict().items())
    loss = result(*INPUTS).sum()
    loss.backward()
    assert all(parameter.grad is not None for parameter in result.parameters())


def test_zeroing_waits_for_its_epochs(world, trained_mlp, monkeypatch):
    setting = world(trained_mlp)
    calls = []
    original = soft_filter_pruning._zero_weakest
    monkeypatch.setattr(soft_filter_pruning, "_zero_weakest", lambda *a: (calls.append(1), original(*a))[1])
    apply(setting.network, params(epochs=5, every_epochs=2), setting.context)
    assert len(calls) == 3, "after epochs 2, 4 and the last one"
