"""Mask criteria keep what Zhou et al. define, on cases small enough to see."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.methods.pruning.ticket.criteria import survival_ranks

WI = torch.tensor([0.1, -0.5, 0.9, -0.3])
WF = torch.tensor([0.6, -0.4, -1.0, -0.2])


def order(criterion, signs="any", slope=None):
    ranks = survival_ranks(criterion, WI, WF, generator=torch.Generator().manual_seed(0), signs=signs, slope=slope)
    return ranks.argsort(descending=True).tolist()


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        ("large_final", [2, 0, 1, 3]),
        ("small_final", [3, 1, 0, 2]),
        ("large_init", [2, 1, 3, 0]),
        ("small_init", [0, 3, 1, 2]),
        ("magnitude_increase", [0, 2]),
        ("movement", [2, 0]),
    ],
)
def test_best_first(criterion, expected):
    assert order(criterion)[: len(expected)] == expected


def test_both_large_means_the_smaller_of_two_percentiles():
    """Ranks |wi|: 0 2 3 1; |wf|: 2 1 3 0; their minima: 0 1 3 0."""
    assert order("large_init_large_final")[:2] == [2, 1]
    assert order("small_init_small_final")[-1] == 2


def test_snip_is_gradient_times_initial_weight():
    assert order("snip", slope=torch.tensor([10.0, 0.1, 0.1, 1.0]))[:2] == [0, 3]


def test_signs_come_before_scores():
    assert order("large_final", "same") == [0, 1, 3, 2]
    assert order("large_final", "different")[0] == 2
    assert order("magnitude_increase", "same")[-1] == 2, "a negative score still beats a weight of the other kind"


def test_weights_of_the_other_kind_follow_at_random():
    wi, wf = torch.ones(200), torch.arange(-20.0, 180.0)
    ranks = survival_ranks("large_final", wi, wf, generator=torch.Generator().manual_seed(0), signs="different")
    assert set(ranks.argsort(descending=True)[:21].tolist()) == set(range(21)), "zero has no sign, so it is not the same one"
    correlation = torch.corrcoef(torch.stack([ranks[21:], wf[21:].double()]))[0, 1]
    assert abs(float(correlation)) < 0.3


@given(st.lists(st.integers(-2, 2), min_size=1, max_size=50), st.sampled_from(["large_final", "large_init_large_final", "random"]))
def test_ranks_are_a_permutation_so_ties_are_broken(values, criterion):
    weights = torch.tensor(values, dtype=torch.float32)
    ranks = survival_ranks(criterion, weights, weights, generator=torch.Generator().manual_seed(1))
    assert sorted(ranks.tolist()) == list(range(len(values)))


def test_ties_are_broken_at_random():
    ones = torch.ones(100)
    first, second = (survival_ranks("large_final", ones, ones, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    assert not torch.equal(first, second)
    assert not torch.equal(first, torch.arange(100).double())
