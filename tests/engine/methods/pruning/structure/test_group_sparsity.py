"""Sparse training draws weak channels towards zero, so that less is lost when they go."""

import copy

import pytest
import torch

from engine.methods.channels.importance import group_norm
from engine.methods.pruning import structured_pruning
from engine.methods.pruning.spec import Regularization, StructuredPruning
from engine.methods.pruning.structure.group_sparsity import speed, train_sparsely
from engine.methods.pruning.structured_pruning import apply
from engine.structure.channels import mask_channels
from engine.structure.graph import ChannelGraph

X = (torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)),)


def norms(module):
    return {group.name: group.unit_sums(group_norm(group).square()).sqrt().detach() for group in ChannelGraph(module, X).groups}


def test_the_weakest_channel_shrinks_sixteen_times_as_fast_as_the_strongest(network_of):
    group = next(group for group in ChannelGraph(network_of("residual"), X).groups if group.name == "one.0")
    found, sizes = speed(group), group.unit_sums(group_norm(group).square()).sqrt().detach()
    assert found[sizes.argmax()] == 1
    assert float(found[sizes.argmin()]) == pytest.approx(16)
    middle = (sizes.max() - sizes[3]) / (sizes.max() - sizes.min())
    assert float(found[3].detach()) == pytest.approx(float(2 ** (4 * middle)))


def test_one_step_multiplies_every_slice_of_a_channel_by_one_number(world, network_of):
    module = network_of("dense")
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    module.head.bias.requires_grad_(True)  # Something has to be trained; nothing else moves but by the penalty.
    before = copy.deepcopy(module)
    setting = world(module)
    groups = [group for group in ChannelGraph(module, X).groups if group.name == "b"]
    for parameter in module.parameters():
        parameter.requires_grad_(parameter is module.head.bias)
    factors = 1 - 0.1 * 0.2 * speed(groups[0]).detach()
    params = Regularization(iterations=1, strength=0.2, learning_rate=0.1, schedule="constant", batch_size=8)
    train_sparsely(module, groups, params, setting.context)
    torch.testing.assert_close(module.b.weight, before.b.weight * factors[:, None, None, None])
    torch.testing.assert_close(module.norm.weight[8:], before.norm.weight[8:] * factors)
    torch.testing.assert_close(module.c.weight[:, 8:], before.c.weight[:, 8:] * factors[:, None, None])
    for left, right in ((module.a.weight, before.a.weight), (module.norm.weight[:8], before.norm.weight[:8])):
        assert torch.equal(left, right), "channels of other groups are left alone"


def test_removed_channels_have_shrunk_and_their_removal_changes_less(world, trained_cnn, monkeypatch):
    training = {"epochs": 4, "learning_rate": 3e-3, "batch_size": 32}
    changes, kept_to_gone = {}, {}
    original = structured_pruning._remove

    def measured(graph, ranked, plan):
        with torch.no_grad():
            masked, before = copy.deepcopy(graph.module), graph.module(*X)
            twins = {group.name: group for group in ChannelGraph(masked, X).groups}
            ratios = []
            for item, removed in zip(ranked, plan, strict=True):
                sizes = norms(graph.module)[item.group.name]
                ratios.append(float(sizes[item.order[:removed]].mean() / sizes[item.order[removed:]].mean()))
                mask_channels(twins[item.group.name], item.group.units[item.order[:removed]].reshape(-1))
            changes[strength] = float((masked(*X) - before).norm() / before.norm())
            kept_to_gone[strength] = max(ratios)
        original(graph, ranked, plan)

    monkeypatch.setattr(structured_pruning, "_remove", measured)
    for strength in (1e-6, 20.0):
        setting = world(trained_cnn)
        params = StructuredPruning(pruning_ratio=0.5, importance="group_norm", regularization={"strength": strength, **training})
        apply(setting.network, params, setting.context)
        stages = [stage["stage"] for stage in setting.context.reported["stages"]]
        assert stages == ["before", "regularized", "pruned"]
        assert ("regularization_weak" in {event.code for event in setting.of("warning")}) == (strength < 1)
    assert kept_to_gone[20.0] < 0.5 * kept_to_gone[1e-6]
    assert changes[20.0] < 0.5 * changes[1e-6]


def test_it_needs_labels():
    params = StructuredPruning(regularization={"epochs": 1})
    assert params.needs.labels
    assert not StructuredPruning().needs.labels
