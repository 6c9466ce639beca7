"""A network without normalization gets its own while it is tuned: it begins as the identity, and is folded away without a trace."""

import copy

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from engine.methods.channels.own_normalization import lacks_normalization, own_normalization
from engine.methods.pruning.spec import StructuredPruning
from engine.methods.pruning.structured_pruning import apply


def plain():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 8, 2, 2, groups=2, bias=False), nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 49, 5),
    ).eval()  # fmt: skip


def test_it_begins_as_the_identity_and_is_folded_exactly(world):
    module, x = plain(), torch.randn(6, 1, 8, 8)
    before, names, context = module(x), list(module.state_dict()), world(module).context
    with own_normalization(module, (x,), context):
        norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
        assert len(norms) == 3
        torch.testing.assert_close(module(x), before, atol=1e-4, rtol=1e-4)
        with torch.no_grad():
            for norm in norms:
                norm.weight.mul_(torch.rand(8) + 0.5)
                norm.bias.add_(torch.randn(8))
        tuned = module(x)
        assert (tuned - before).abs().max() > 0.1
    torch.testing.assert_close(module(x), tuned, atol=1e-4, rtol=1e-4)
    assert set(names) | {"2.bias"} == set(module.state_dict()), "only a bias that was missing is new"


def test_without_normalization_it_warns_before_it_tunes_or_inserts_some(world):
    for insert in (False, True):
        setting = world(plain())
        seen = []
        train = setting.context.train
        setting.context.train = lambda module, *rest, seen=seen, train=train, **named: (
            seen.append(any(isinstance(layer, nn.BatchNorm2d) for layer in module.modules())),
            train(module, *rest, **named),
        )
        params = StructuredPruning(pruning_ratio=0.5, finetune={"iterations": 2}, insert_normalization=insert)
        module = apply(setting.network, params, setting.context).module
        assert ("no_normalization" in {event.code for event in setting.of("warning")}) is not insert
        assert seen == [insert]
        assert not any(isinstance(layer, nn.BatchNorm2d) for layer in module.modules())


def test_networks_that_normalize_or_have_few_convolutions_are_left_alone():
    assert lacks_normalization(plain())
    assert not lacks_normalization(nn.Sequential(*copy.deepcopy(list(plain())), nn.BatchNorm1d(5)))
    assert not lacks_normalization(nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)))
    with pytest.raises(ValidationError, match="needs finetune"):
        StructuredPruning(insert_normalization=True)
