"""A mask is boolean, fits its weight, only narrows, and holds zeros against every optimizer."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize

from engine.networks import masks
from engine.networks.masks import Density, Mask, MaskedWeight


def test_a_mask_is_boolean_and_only_narrows():
    mask = Mask(torch.tensor([True, True, False]))
    assert mask.narrowed(torch.tensor([True, False, False])).density == Density(1, 3)
    with pytest.raises(ValueError, match="nested"):
        mask.narrowed(torch.tensor([True, False, True]))
    with pytest.raises(ValueError, match="shape"):
        mask.narrowed(torch.tensor([True]))
    with pytest.raises(ValueError, match="boolean"):
        Mask(torch.ones(3))


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_packing_is_one_bit_an_entry_and_reversible(bits):
    mask = Mask(torch.tensor(bits))
    assert len(mask.pack()) == -(-len(bits) // 8)
    assert torch.equal(Mask.unpack(mask.pack(), (len(bits),)).keep, mask.keep)


def test_density_adds_counts():
    assert (Density(1, 4) + Density(3, 4)).sparsity == 0.5


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_neither_momentum_nor_weight_decay_revives_a_pruned_weight(kind):
    layer = nn.Linear(6, 4)
    masks.hold(layer, {"weight": Mask(layer.weight.detach() > 0)})
    pruned = layer.weight.detach() == 0
    options = {"weight_decay": 0.1, "lr": 0.1} | ({"momentum": 0.9} if kind == "sgd" else {})
    optimizer = (torch.optim.SGD if kind == "sgd" else torch.optim.AdamW)(layer.parameters(), **options)
    before = layer.weight.detach().clone()
    for _ in range(5):
        optimizer.zero_grad()
        layer(torch.randn(8, 6)).square().sum().backward()
        optimizer.step()
    assert (layer.weight[pruned] == 0).all()
    assert not torch.equal(layer.weight[~pruned], before[~pruned])


def test_holding_again_narrows_in_place():
    module = nn.Sequential(nn.Linear(4, 4))
    first = Mask(torch.arange(16).reshape(4, 4) > 3)
    masks.hold(module, {"0.weight": first})
    masks.hold(module, {"0.weight": first.narrowed(torch.arange(16).reshape(4, 4) > 7)})
    assert masks.held(module)["0.weight"].density == Density(8, 16)
    with pytest.raises(ValueError, match="nested"):
        masks.hold(module, {"0.weight": first})


def test_folding_gives_a_plain_copy_that_computes_the_same():
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    masks.hold(module, {"0.weight": Mask(module[0].weight.detach() > 0)})
    plain = masks.fold(module)
    x = torch.randn(3, 4)
    assert torch.equal(plain(x), module(x))
    assert type(plain[0]) is nn.Linear
    assert set(plain.state_dict()) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert masks.held(module)
    assert not torch.signbit(plain[0].weight[plain[0].weight == 0]).any(), "a negative zero would spoil compression"


def test_a_plain_module_is_read_where_it_stands_and_a_masked_one_as_a_copy():
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    assert masks.plain(network, torch.device("cpu")) is network
    masks.hold(network, {"0.weight": Mask(torch.rand(3, 4) > 0.5)})
    copied = masks.plain(network, torch.device("cpu"))
    assert not masks.held(copied)
    assert masks.held(network)
    torch.testing.assert_close(copied.eval()(torch.ones(2, 4)), network.eval()(torch.ones(2, 4)))
    elsewhere = masks.plain(nn.Linear(4, 3), torch.device("meta"))
    assert elsewhere.weight.device.type == "meta"


def test_masks_survive_a_deep_copy_and_can_be_folded_from_a_traced_module():
    module = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    masks.hold(module, {"0.weight": Mask(torch.eye(4) > 0)})
    copied = copy.deepcopy(module)
    x = torch.randn(3, 4)
    assert torch.equal(masks.fold(copied)(x), module(x))


def test_a_shared_weight_is_masked_wherever_it_is_used():
    module = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    module[1].weight = module[0].weight
    masks.hold(module, {"0.weight": Mask(torch.eye(4) > 0)})
    assert torch.equal(module[1].weight, module[0].weight)
    assert (module[1].weight == 0).sum() == 12


def test_a_shared_weight_is_narrowed_wherever_it_is_used_and_stays_shared_when_folded():
    module = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    module[2].weight = module[0].weight
    keep = torch.rand(6, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    masks.hold(module, {"0.weight": Mask.full(module[0].weight)})
    masks.hold(module, {"2.weight": Mask(keep)})
    for layer in (module[0], module[2]):
        assert torch.equal(layer.weight != 0, keep)
    plain = masks.fold(module)
    assert plain[0].weight is plain[2].weight
    assert masks.weights_of({"0": module[0], "2": module[2]}) == masks.weights_of({"0": plain[0], "2": plain[2]}) == ["0.weight"]


class Unchanged(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight


def test_a_plain_copy_shares_no_memory_with_its_original():
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    module[1].weight = module[0].weight
    parametrize.register_parametrization(module[0], "weight", MaskedWeight(Mask(torch.eye(4) > 0), module[0].weight))  # of one of the two
    parametrize.register_parametrization(module[3], "weight", Unchanged())
    expected, plain = module.eval()(torch.ones(2, 4)), masks.fold(module)
    for tensor in (*plain.parameters(), *plain.buffers()):
        tensor.detach().zero_()
    assert torch.equal(module(torch.ones(2, 4)), expected)
    assert expected.any()
