"""The search takes channels where they cost least, meets its budget, and what it finds is really that large."""

import copy

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from engine.methods.slimming.autoslim import apply
from engine.methods.slimming.slimmable import apply as slimmable
from engine.methods.slimming.spec import AutoSlim, Slimmable
from engine.networks.network import UNNAMED
from engine.structure.plan import Costs
from tests.engine.conftest import CLASSES

INPUTS = (torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)),)


def params(**changes):
    return AutoSlim(**({"budget": {"macs_ratio": 0.5}, "iterations": 4, "step": 0.25, "smallest": 0.25, "examples_count": 64} | changes))


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Flatten(), nn.Linear(1024, CLASSES),
    )  # fmt: skip


@pytest.mark.parametrize(("figure", "count"), [("macs_ratio", Costs.macs_count), ("params_ratio", Costs.params_count)])
def test_it_ends_at_the_first_step_within_the_budget(world, figure, count):
    here = world(cnn())
    made = apply(here.network, params(budget={figure: 0.5}), here.context).module
    path = here.context.reported["path"]
    left = count(Costs(made, INPUTS)) / count(Costs(here.network.module, INPUTS))
    assert path[-1]["cost"] == left <= 0.5 < (path[-2]["cost"] if len(path) > 1 else 1)


def test_the_layer_that_is_missed_least_goes_first(world):
    """A layer whose channels all say the same loses channels before one that the answers hang on."""
    torch.manual_seed(0)
    module = cnn()
    with torch.no_grad():
        module[3].weight[:] = module[3].weight[:1]
        module[7].weight[:] = module[7].weight[:, :64].repeat(1, 16)
    here = world(module)
    apply(here.network, params(iterations=0, budget={"params_ratio": 0.8}), here.context)
    assert here.context.reported["path"][0]["layer"] == "3"


def test_new_weights_are_new_and_the_supernets_are_slices_of_it(world):
    here = world(cnn())
    kept = apply(here.network, params(iterations=0), here.context).module
    rows = {row.sum().item() for row in here.network.module[0].weight}
    assert {row.sum().item() for row in kept[0].weight} <= rows
    drawn = apply(world(cnn()).network, params(iterations=0, start="new", finetune={"iterations": 0}), here.context).module
    assert {row.sum().item() for row in drawn[0].weight}.isdisjoint(rows)


def test_a_budget_out_of_reach_is_told(world):
    here = world(copy.deepcopy(cnn()))
    apply(here.network, params(iterations=0, budget={"macs_ratio": 0.01}), here.context)
    assert [event.code for event in here.of("warning")] == ["budget_missed"]
    with pytest.raises(ValidationError, match="new weights have to be trained"):
        params(start="new")


def test_it_takes_the_supernet_of_a_slimmable_step_in_the_order_that_was_trained(world):
    here = world(cnn())
    trained = slimmable(here.network, Slimmable(widths=(0.25, 1.0), universal=True, iterations=2, ranking="first"), here.context)
    made = apply(trained, params(iterations=0), here.context)
    assert made.settings == UNNAMED
    kept = made.module[0].out_channels
    assert torch.equal(made.module[0].weight, trained.module.widest[0].weight[:kept]), "the first ones, whatever their size"


def test_layers_of_which_one_channel_is_left_are_cut_all_the_same(world):
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Flatten(), nn.Linear(512, CLASSES),
    )  # fmt: skip
    here = world(module)
    made = apply(here.network, params(budget={"params_ratio": 0.01}), here.context).module
    assert [made[0].out_channels, made[3].out_channels] == [1, 2]
    assert [event.code for event in here.of("warning")] == ["budget_missed"]


def test_a_layer_with_fewer_units_than_the_smallest_share_keeps_one(world):
    module = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Flatten(), nn.Linear(1024, CLASSES),
    )  # fmt: skip
    made = apply(world(module).network, params(budget={"params_ratio": 0.1}, smallest=0.05), world(module).context).module
    assert made[0].out_channels >= 1
    assert made[3].out_channels < 16
