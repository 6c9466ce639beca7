"""Importances equal their papers' formulas."""

import copy

import pytest
import torch
from torch import nn

from engine.methods.channels.gradients import backpropagated
from engine.methods.channels.importance import fpgm, group_norm, lamp, magnitude_l1, magnitude_l2, unit_scores
from engine.structure.graph import ChannelGraph
from engine.training.batches import Batch

X = (torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)),)


def groups(module):
    return {group.name: group for group in ChannelGraph(module, X).groups}


def test_magnitudes_sum_over_the_filters_that_produce_a_channel(network_of):
    module = network_of("residual")
    group = groups(module)["stem.0"]
    producers = [module.stem[0].weight.detach(), module.one[3].weight.detach()]
    torch.testing.assert_close(magnitude_l1(group).detach(), sum(w.abs().sum((1, 2, 3)) for w in producers))
    torch.testing.assert_close(magnitude_l2(group).detach(), sum(w.square().sum((1, 2, 3)) for w in producers).sqrt())


def test_group_norm_takes_every_tied_slice(network_of):
    module = network_of("plain")
    group = groups(module)["4"]
    columns = module[7].weight.detach().reshape(16, 12, 9)
    expected = (module[4].weight.detach().square().sum((1, 2, 3)) + columns.square().sum((0, 2))).sqrt()
    torch.testing.assert_close(group_norm(group).detach(), expected)


def test_grouped_input_slices_belong_to_their_own_group(network_of):
    module = network_of("grouped")
    group = groups(module)["stem"]
    part = next(part for part in group.parts if part.consuming)
    rows = part.rows(module.grouped.weight.detach())
    for i in range(16):
        block, place = divmod(i, 4)
        torch.testing.assert_close(rows[i], module.grouped.weight.detach()[6 * block : 6 * block + 6, place].reshape(-1))


def test_fpgm_ranks_the_filter_next_to_the_geometric_median_last():
    module = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.ReLU(), nn.Conv2d(3, 1, 1), nn.Flatten()).eval()
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([1.0, 2.0, 9.0]).reshape(3, 1, 1, 1))
    assert fpgm(groups(module)["0"]).tolist() == pytest.approx([9, 8, 15])


def test_lamp_divides_by_what_is_not_smaller():
    module = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.ReLU(), nn.Conv2d(3, 1, 1), nn.Flatten()).eval()
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([2.0, 1.0, 3.0]).reshape(3, 1, 1, 1))
    assert lamp(groups(module)["0"]).tolist() == pytest.approx([4 / 13, 1 / 14, 1])


def loss_of(module, data, indices):
    batch = Batch.of(data, indices, ["x"], torch.device("cpu"))
    return nn.functional.cross_entropy(module(*batch.inputs), torch.from_numpy(batch.stored["y"]))


def test_taylor_is_the_squared_slope_of_the_loss_as_the_channel_fades(world, trained_cnn):
    """Scaling what reads channel c by (1 - s) fades it out; the score is the slope at s = 0, squared, averaged over batches."""
    module = copy.deepcopy(trained_cnn)
    setting = world(module, train=32)
    found = [group for group in ChannelGraph(module, X).groups if group.name == "0"]
    scores = unit_scores(module, found, "taylor", setting.context, together=True)[0]
    data, everything = setting.data.splits["train"], torch.arange(32).numpy()
    for channel in range(4):
        losses = []
        for scale in (1 + 1e-4, 1 - 1e-4):
            faded = copy.deepcopy(trained_cnn).double()
            with torch.no_grad():
                faded[4].weight[:, channel] *= scale
            batch = Batch.of(data, everything, ["x"], torch.device("cpu"))
            with torch.no_grad():
                losses.append(float(nn.functional.cross_entropy(faded(batch.inputs[0].double()), torch.from_numpy(batch.stored["y"]))))
        slope = (losses[0] - losses[1]) / 2e-4
        assert float(scores[channel]) == pytest.approx(32 * slope**2, rel=1e-3, abs=1e-6)


def test_hessian_is_half_the_mean_squared_gradient_times_the_squared_weight(world, trained_cnn):
    module = copy.deepcopy(trained_cnn)
    setting = world(module, train=8)
    found = [group for group in ChannelGraph(module, X).groups if group.name == "0"]
    scores = unit_scores(module, found, "hessian", setting.context, together=True)[0]
    expected = torch.zeros(8)
    for index in range(8):
        copied = copy.deepcopy(trained_cnn)
        loss_of(copied, setting.data.splits["train"], torch.tensor([index]).numpy()).backward()
        expected += 0.5 * (copied[4].weight.grad * copied[4].weight.detach()).square().sum((0, 2, 3))
    torch.testing.assert_close(scores, expected, rtol=1e-3, atol=1e-8)


def test_gradients_are_those_of_the_finished_network_and_are_taken_away(world):
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(0.9), nn.Linear(8, 5))
    setting = world(module, train=20)
    mean = module[2].running_mean.clone()
    module.train()
    first = [module[1].weight.grad.clone() for _ in backpropagated(module, setting.context)]
    second = [module[1].weight.grad.clone() for _ in backpropagated(module, setting.context)]
    torch.testing.assert_close(first, second)
    assert torch.equal(module[2].running_mean, mean)
    assert module.training
    assert module[1].weight.grad is None


def test_global_scores_of_magnitudes_have_mean_one(world, trained_cnn):
    setting = world(trained_cnn)
    found = ChannelGraph(trained_cnn, X).groups
    for scores in unit_scores(trained_cnn, found, "magnitude_l1", setting.context, together=True):
        assert float(scores.mean()) == pytest.approx(1)
