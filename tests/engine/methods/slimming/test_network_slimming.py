"""Scales go to zero with the penalty, the smallest of all go first, and channels that say one constant go without a change."""

import copy

import pytest
import torch
from torch import nn

from engine.contract.errors import EngineError
from engine.methods.slimming.network_slimming import apply, penalty, silence, unit_scales
from engine.methods.slimming.spec import NetworkSlimming
from engine.structure.constants import absorb
from engine.structure.graph import ChannelGraph
from engine.training.loop import Moment

INPUTS = (torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)),)


def params(**changes):
    return NetworkSlimming(**({"epochs": 2, "learning_rate": 0.05, "pruning_ratio": 0.5} | changes))


def chain(widths=(8, 12, 8)):
    """Convolutions with a normalization each, without padding."""
    layers, before = [], 1
    for width in widths:
        layers += [nn.Conv2d(before, width, 3 if before == 1 else 1), nn.BatchNorm2d(width), nn.ReLU()]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 5))


def scales_of(module):
    return {layer: layer.weight.detach().abs() for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)}


def test_with_sgd_the_penalty_is_its_subgradient_and_else_a_soft_threshold():
    scale = nn.Parameter(torch.tensor([0.5, -0.5, 0.0, 0.0004]))
    scale.grad = torch.tensor([1.0, 1.0, 1.0, 1.0])
    moment = Moment(1, 10, 1, nn.Identity())
    penalty([scale], params(penalty=0.1)).before_optimizer_step[0](moment)
    assert torch.allclose(scale.grad, torch.tensor([1.1, 0.9, 1.0, 1.1]))
    penalty([scale], params(penalty=0.1, optimizer="adamw", learning_rate=0.01, schedule="constant")).on_step[0](moment)
    assert torch.allclose(scale.detach(), torch.tensor([0.499, -0.499, 0.0, 0.0]))


def test_more_penalty_makes_more_scales_small(world):
    shares = []
    for strength in (0.0, 0.03, 0.3):
        here = world(chain(), train=200)
        apply(here.network, params(penalty=strength, epochs=6, gamma_init=0.5, batch_size=16), here.context)
        shares.append(here.context.reported["passes"][0]["near_zero_share"])
    assert shares[0] == 0 < shares[1] < shares[2]


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.6])
def test_the_global_threshold_removes_the_smallest_of_all_scales(world, ratio):
    module = chain()
    with torch.no_grad():
        for place, layer in enumerate(scales_of(module)):
            layer.weight.copy_(torch.rand(layer.num_features, generator=torch.Generator().manual_seed(place)) + 0.2)
    here = world(module)
    made = apply(here.network, params(epochs=0, pruning_ratio=ratio), here.context).module
    every = torch.cat(list(scales_of(module).values())).sort().values
    kept = torch.cat(list(scales_of(made).values())).sort().values
    assert torch.equal(kept, every[round(ratio * len(every)) :])
    assert here.context.reported["passes"][0]["threshold"] == pytest.approx(float(every[round(ratio * len(every)) - 1]))


def test_no_layer_is_emptied_and_the_user_is_told(world):
    module = chain()
    with torch.no_grad():
        module[4].weight.fill_(1e-3)
    here = world(module)
    made = apply(here.network, params(epochs=0, pruning_ratio=0.6, min_channels=2), here.context).module
    assert made[3].out_channels == 2
    assert any(event.code == "pruning_limited" and "3" in event.details["layers"] for event in here.of("warning"))


def test_passes_come_to_the_same_share_and_the_layer_scope_takes_it_from_each(world):
    for scope in ("global", "layer"):
        here = world(chain((8, 16, 8)))
        made = apply(here.network, params(passes=2, scope=scope, epochs=1, pruning_ratio=0.75), here.context).module
        widths = [layer.out_channels for layer in made if isinstance(layer, nn.Conv2d)]
        assert sum(widths) == 8
        assert scope == "global" or widths == [2, 4, 2]


def test_what_removed_channels_say_moves_into_biases_exactly(network_of):
    module = chain()
    with torch.no_grad():
        for layer in scales_of(module):
            layer.bias.copy_(torch.randn(layer.num_features, generator=torch.Generator().manual_seed(3)))
    module.eval()
    graph = ChannelGraph(module, INPUTS)
    gone = [(group, group.units[::2].reshape(-1)) for group in graph.groups]
    silence(gone)
    expected = module(*INPUTS)
    for group, channels in gone:
        absorb(module, [(group, channels)], INPUTS)
        graph.remove(group, channels.tolist())
    assert torch.allclose(module(*INPUTS), expected, atol=1e-5)


def test_absorbed_shifts_keep_what_the_network_computed(world):
    """With scales near zero the network is the same before and after, and is another one without."""
    module = chain()
    with torch.no_grad():
        for place, layer in enumerate(scales_of(module)):
            layer.weight[::2] = 1e-6
            layer.bias.copy_(torch.randn(layer.num_features, generator=torch.Generator().manual_seed(place)))
    module.eval()
    found = {}
    for absorbed in (True, False):
        here = world(copy.deepcopy(module))
        made = apply(here.network, params(epochs=0, absorb_bias=absorbed), here.context).module
        found[absorbed] = (made(*INPUTS) - module(*INPUTS)).abs().max().item()
    assert found[True] < 1e-4 < 1e-2 < found[False]


def test_tied_scales_are_ranked_by_their_mean(network_of):
    module = network_of("residual")
    group = next(group for group in ChannelGraph(module, INPUTS).groups if group.name == "stem.0")
    stem, branch = module.stem[1].weight.abs(), module.one[4].weight.abs()
    assert torch.allclose(unit_scales(group, scales_of(module)), ((stem + branch) / 2).detach())


def test_a_folded_network_says_what_to_upload_or_gets_scales_of_its_own(world):
    module = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5)
    )
    here = world(copy.deepcopy(module))
    with pytest.raises(EngineError, match="no batch normalization") as error:
        apply(here.network, params(), here.context)
    assert error.value.code == "normalization_missing"
    assert "insert_normalization" in error.value.hint
    made = apply(here.network, params(insert_normalization=True, finetune={"epochs": 1}), here.context).module
    convolutions = [layer for layer in made if isinstance(layer, nn.Conv2d)]
    assert sum(layer.out_channels for layer in convolutions) == 12
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in made.modules())


def test_a_short_training_warns(world):
    here = world(chain())
    apply(here.network, params(epochs=1, penalty=1e-5), here.context)
    assert [event.code for event in here.of("warning")] == ["sparsity_unreachable"]
