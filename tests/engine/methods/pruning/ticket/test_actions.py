"""What kept and pruned weights start with."""

import pytest
import torch

from engine.methods.pruning.ticket.actions import kept_values, pruned_values
from engine.networks.masks import Mask

WI = torch.randn(8, 10, generator=torch.Generator().manual_seed(0))
WF = torch.randn(8, 10, generator=torch.Generator().manual_seed(1))
MASK = Mask(torch.rand(8, 10, generator=torch.Generator().manual_seed(2)) < 0.4)
KEEP = MASK.keep


def kept(action, keep_sign=False):
    return kept_values(action, WF, WI, MASK, keep_sign=keep_sign, generator=torch.Generator().manual_seed(3))[KEEP]


def pruned(action):
    return pruned_values(action, WI, WF, MASK, torch.Generator().manual_seed(3))


def test_rewinding_gives_the_weights_of_the_start():
    assert torch.equal(kept("rewind"), WF[KEEP])


@pytest.mark.parametrize("action", ["reinit", "reshuffle", "constant"])
def test_signs_are_kept_on_request_only(action):
    assert torch.equal(torch.sign(kept(action, keep_sign=True)), torch.sign(WI[KEEP]))
    assert not torch.equal(torch.sign(kept(action)), torch.sign(WI[KEEP]))


@pytest.mark.parametrize("keep_sign", [True, False])
def test_reshuffling_moves_the_kept_values_among_the_kept_places(keep_sign):
    values = kept("reshuffle", keep_sign)
    assert torch.equal(values.sort().values, WI[KEEP].sort().values)
    assert not torch.equal(values, WI[KEEP])


def test_reinit_draws_from_the_whole_layers_initial_values():
    assert torch.isin(kept("reinit"), WI).all()
    assert torch.isin(kept("reinit", keep_sign=True).abs(), WI.abs()).all()
    assert not torch.isin(kept("reinit"), WI[KEEP]).all()


def test_the_constant_is_the_layers_standard_deviation():
    assert torch.allclose(kept("constant", keep_sign=True).abs(), WI.std(correction=0))
    assert int((kept("constant") > 0).sum()) == int((WI[KEEP] > 0).sum()), "signs are shuffled, not drawn"


def test_pruned_weights_are_zero_or_frozen():
    toward = WI.abs() > WF.abs()
    assert pruned("zero") is None
    assert torch.equal(pruned("freeze_init"), WI)
    assert torch.equal(pruned("freeze_toward_zero")[~KEEP], torch.where(toward, 0.0, WI)[~KEEP])
    assert torch.equal(pruned("freeze_away")[~KEEP], torch.where(toward, WI, 0.0)[~KEEP])
    shuffled = pruned("freeze_reshuffled")[~KEEP]
    assert int((shuffled == 0).sum()) == int(toward[~KEEP].sum())
    assert not torch.equal(shuffled, pruned("freeze_toward_zero")[~KEEP])
