"""ThiNet: contributions add up to the next layer's output, the greedy choice is the paper's, least squares makes up for the loss."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from engine.methods.channels import thinet
from engine.methods.pruning.spec import StructuredPruning
from engine.methods.pruning.structured_pruning import apply
from engine.structure.graph import ChannelGraph
from tests.engine.structure.conftest import Tied

INPUTS = (torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)),)


def group_named(module, name):
    return next(group for group in ChannelGraph(module, INPUTS).groups if name in group.layers)


@pytest.mark.parametrize(
    "reader",
    [
        nn.Conv2d(8, 6, 3, padding=1),
        nn.Conv2d(8, 6, (3, 2), stride=2, dilation=(1, 2), padding=(0, 1)),
        nn.Conv2d(8, 6, 3, groups=2, padding="same", padding_mode="reflect"),
        nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1),
    ],
)
def test_contributions_add_up_to_outputs_of_the_reader(world, reader):
    module = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), reader, nn.Flatten(), nn.LazyLinear(5))
    module(*INPUTS)
    setting = world(module, train=20)
    group = group_named(module, "0")
    (matrix,) = thinet.contributions(module, [group], setting.context).values()
    with torch.no_grad():
        images = torch.from_numpy(setting.data.splits["train"].images)
        outputs = (module[:3](images) - reader.bias[:, None, None]).flatten(1).double()
    places = len(matrix) // 20
    assert matrix.shape == (20 * places, 8)
    assert places >= 10
    for example in range(20):
        sums = matrix[example * places : (example + 1) * places].sum(1)
        assert ((sums[:, None] - outputs[example]).abs().amin(1) < 1e-5).all()
    assert len(torch.unique(matrix.sum(1))) > places, "places differ"


def test_contributions_of_a_flattened_channel_come_from_all_its_positions(world):
    module = nn.Sequential(nn.Conv2d(1, 4, 7), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5))
    setting = world(module, train=10)
    group = group_named(module, "0")
    (part,) = thinet.readers(group)
    matrix = thinet.contributions(module, [group], setting.context)[part]
    with torch.no_grad():
        outputs = (module(torch.from_numpy(setting.data.splits["train"].images)) - module[3].bias).double()
    sums = thinet._per_channel(group, part, matrix).sum(1).reshape(10, -1)
    assert ((sums[:, :, None] - outputs[:, None]).abs().amin(2) < 1e-5).all()


def test_greedy_removes_what_loses_least_together():
    samples = torch.from_numpy(np.random.default_rng(0).normal(size=(200, 6)))
    scores = thinet.greedy(samples.T @ samples)
    removed: list[int] = []
    for _ in range(6):
        losses = {c: float(samples[:, [*removed, c]].sum(1).square().sum()) for c in range(6) if c not in removed}
        removed.append(min(losses, key=losses.get))
    assert torch.argsort(scores).tolist() == removed


def test_channels_that_cancel_each_other_go_first_however_large():
    small = torch.from_numpy(np.random.default_rng(0).normal(size=(100, 2)))
    large = 1.5 * torch.from_numpy(np.random.default_rng(1).normal(size=(100, 1)))
    scores = thinet.greedy((m := torch.cat([large, -large, 1.6 * small + 3], 1)).T @ m)
    assert sorted(torch.argsort(scores)[:2].tolist()) == [0, 1]


def test_least_squares_is_the_closed_form():
    rng = np.random.default_rng(0)
    matrix, wanted = rng.normal(size=(50, 4)), rng.normal(size=50)
    expected = np.linalg.lstsq(matrix, wanted, rcond=None)[0]
    found = thinet.least_squares(torch.from_numpy(matrix), torch.from_numpy(wanted))
    assert np.allclose(found.numpy(), expected, atol=1e-5)


def test_a_redundant_channel_is_removed_without_any_loss(world):
    """Channel 1 is twice channel 0 wherever it is read, so channel 0 times 1 + 2·a takes its place."""
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    with torch.no_grad():
        module[0].weight[1], module[0].bias[1] = 2 * module[0].weight[0], 2 * module[0].bias[0]
        columns = module[3].weight.reshape(5, 4, 36)
        columns[:, 1] = 0.05 * columns[:, 0]
        columns[:, 2:] *= 3
        first = columns[:, 0].clone()
    expected = module(*INPUTS)
    setting = world(module)
    params = StructuredPruning(importance="thinet", pruning_ratio=0.25)
    result = apply(setting.network, params, setting.context).module
    assert result[0].out_channels == 3
    assert torch.allclose(result(*INPUTS), expected, atol=1e-4)
    assert torch.allclose(result[3].weight.reshape(5, 3, 36)[:, 0], 1.1 * first, atol=1e-4)


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_it_keeps_more_of_the_outputs_than_chance(world, trained_cnn, scope):
    fidelity = {}
    for importance in ("thinet", "random"):
        setting = world(copy.deepcopy(trained_cnn))
        params = StructuredPruning(importance=importance, pruning_ratio=0.4, scope=scope)
        apply(setting.network, params, setting.context)
        fidelity[importance] = setting.context.reported["stages"][-1]["test.sqnr_db"]
    assert fidelity["thinet"] > fidelity["random"] + 2


def test_it_runs_on_every_shape_of_network(world, shaped):
    setting = world(shaped, train=40)
    result = apply(setting.network, StructuredPruning(importance="thinet"), setting.context).module
    assert result(*INPUTS).shape == (4, 5)
    assert sum(p.numel() for p in result.parameters()) < sum(p.numel() for p in shaped.parameters())


def test_it_needs_examples_but_no_labels():
    needs = StructuredPruning(importance="thinet").needs
    assert (needs.dataset, needs.labels) == (True, False)


def test_scaling_a_layer_leaves_those_that_share_its_weight_alone(world):
    """One kernel at two places, as tied layers are imported: what makes up for channels at one place is wrong at the other."""
    torch.manual_seed(0)
    module = Tied()
    setting = world(module)
    kernel = module.far.weight.detach().clone()
    params = StructuredPruning(importance="thinet", pruning_ratio={"stem": 0.5})
    result = apply(setting.network, params, setting.context).module
    assert result.near.weight.shape == (8, 4, 3, 3)
    assert torch.equal(result.far.weight, kernel)
    kept = [kernel[:, [index]] for index in range(8)]
    assert all(not any(torch.equal(result.near.weight[:, [place]], own) for own in kept) for place in range(4)), "rescaled"
