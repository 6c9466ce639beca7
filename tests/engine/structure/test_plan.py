"""The order of removal meets ratios and budgets exactly, and limits are never broken."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.structure.channels import ChannelGroup
from engine.structure.graph import ChannelGraph
from engine.structure.plan import Costs, Limits, blocks, for_budget, for_share, held_back, plan_of, rank

X = (torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)),)


def group(units, width=1):
    return ChannelGroup("small" if units < 10 else "large", ("g",), torch.arange(units * width).reshape(width, units).T, ())


def allowed(*arguments, **options):
    return [block for block in blocks(*arguments, **options) if block.allowed]


def ranked(*sizes, width=1):
    return [rank(group(size, width), torch.rand(size, generator=torch.Generator().manual_seed(size)), size) for size in sizes]


@given(st.lists(st.integers(2, 64), min_size=1, max_size=5), st.floats(0.01, 0.99), st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_limits_hold_whatever_the_target(sizes, share, min_channels, round_to, together):
    items = ranked(*sizes)
    order = allowed(items, together=together, limits=Limits(min_channels, round_to))
    plan = plan_of(order, for_share(order, items, share, sum(sizes), together=together), len(items))
    for size, removed in zip(sizes, plan, strict=True):
        kept = size - removed
        assert removed == 0 or (kept >= max(1, min_channels) and kept % round_to == 0)


@given(st.lists(st.integers(4, 64), min_size=1, max_size=5), st.floats(0.05, 0.7))
def test_layer_scope_removes_the_same_share_of_every_layer(sizes, share):
    items = ranked(*sizes)
    order = allowed(items, together=False, limits=Limits())
    plan = plan_of(order, for_share(order, items, share, sum(sizes), together=False), len(items))
    assert all(abs(removed - share * size) <= 0.5 + 1e-9 for size, removed in zip(sizes, plan, strict=True))


def test_layer_scope_rounds_to_the_nearest_multiple():
    items = ranked(20, 27)
    order = allowed(items, together=False, limits=Limits(1, 8))
    assert plan_of(order, for_share(order, items, 0.5, 47, together=False), 2) == [12, 11]


@given(st.lists(st.integers(2, 40), min_size=2, max_size=5), st.floats(0.05, 0.6))
def test_global_scope_removes_the_lowest_scores_of_the_whole(sizes, share):
    items = ranked(*sizes)
    order = allowed(items, together=True, limits=Limits())
    plan = plan_of(order, for_share(order, items, share, sum(sizes), together=True), len(items))
    gone = torch.cat([item.scores[:removed] for item, removed in zip(items, plan, strict=True)])
    kept = torch.cat([item.scores[removed:] for item, removed in zip(items, plan, strict=True)])
    assert abs(len(gone) - share * sum(sizes)) <= 0.5 + 1e-9 or len(kept) == len(sizes)
    if len(gone):
        # A layer's last channel is kept even where its score is low.
        best = torch.tensor([float(item.scores[-1]) for item in items])
        assert torch.isin(kept[kept < gone.max()], best).all()


def test_rounds_add_up_to_the_share_of_the_original():
    first = ranked(10)
    order = allowed(first, together=False, limits=Limits())
    assert plan_of(order, for_share(order, first, 0.3, 10, together=False), 1) == [3]
    second = [rank(group(7), torch.rand(7), 10)]
    order = allowed(second, together=False, limits=Limits())
    assert plan_of(order, for_share(order, second, 0.5, 10, together=False), 1) == [2]


def test_layers_that_the_limits_hold_back_are_named():
    items = ranked(4, 40)
    order = allowed(items, together=False, limits=Limits(3, 1))
    assert plan_of(order, for_share(order, items, 0.5, 44, together=False), 2) == [1, 20]
    every = blocks(items, together=False, limits=Limits(3, 1))
    assert held_back(every, items, 0.5) == ["small"]
    assert held_back(every, items, 0.2) == []


@pytest.mark.parametrize("figure", ["params_count", "macs_count"])
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("target", [0.7, 0.4, 0.15])
def test_a_budget_is_met_to_within_one_block_and_never_exceeded(shaped, figure, together, target):
    module = copy.deepcopy(shaped)
    graph = ChannelGraph(module, X)
    items = [rank(g, torch.rand(len(g.units), generator=torch.Generator().manual_seed(1)), len(g.units)) for g in graph.groups]
    order = allowed(items, together=together, limits=Limits())
    costs = Costs(module, X)
    whole = getattr(costs, figure)()

    def cost(plan):
        return getattr(costs, figure)(items, plan)

    length = for_budget(order, len(items), cost, target * whole)
    plan = plan_of(order, length, len(items))
    predicted = cost(plan)
    assert predicted <= target * whole < cost(plan_of(order, length - 1, len(items)))
    for item, removed in zip(items, plan, strict=True):
        if removed:
            graph.remove(item.group, item.group.units[item.order[:removed]].reshape(-1).tolist())
    assert getattr(Costs(module, X), figure)() == predicted, "the plan's cost is the cost of the network that was cut"


def test_macs_equal_torchs_own_counter(shaped):
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shaped(*X)
    assert Costs(shaped, X).macs_count() == counter.get_total_flops() // 2 // len(X[0])


def test_parameters_are_all_counted(shaped):
    assert Costs(shaped, X).params_count() == sum(p.numel() for p in shaped.parameters())
