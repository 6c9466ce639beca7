"""The multi-scale dense network: connections, growth, reduction and lazy evaluation, as Huang et al. have them."""

import pytest
import torch
from torch import nn

from engine.architectures.build import build_architecture
from engine.architectures.msdnet.spec import MSDNet
from engine.contract.errors import EngineError
from engine.formats.onnx.counting import count_module

SMALL = {
    "in_channels": 1,
    "image_size": 16,
    "classifiers": 3,
    "base": 2,
    "step": 1,
    "channels": 4,
    "growth": 2,
    "classifier_channels": 6,
    "num_classes": 3,
}


def small(**changes: object) -> tuple[nn.Module, MSDNet]:
    torch.manual_seed(0)
    module, _ = build_architecture({"name": "msdnet", "params": {**SMALL, **changes}})
    return module, MSDNet(**{**SMALL, **changes})


def channels(module: nn.Module) -> list[dict[int, int]]:
    """Channels of every scale after the first layer, and after each layer and transition."""
    features = module.first(torch.randn(1, 1, 16, 16))
    found = [features]
    for block in module.blocks:
        for layer in block:
            features = layer(features)
            found.append(features)
    return [{scale: value.shape[1] for scale, value in item.items()} for item in found]


def test_each_layer_adds_its_growth_to_every_scale_that_is_still_read() -> None:
    module, _ = small(reduced=False)
    # Growth 2·(1, 2, 4); the last layer computes the coarsest scale only, the one before it the two coarsest.
    assert channels(module) == [
        {0: 4, 1: 8, 2: 16},
        {0: 6, 1: 12, 2: 24},
        {0: 8, 1: 16, 2: 32},
        {1: 20, 2: 40},
        {2: 48},
    ]


def test_reduction_drops_the_finest_scale_and_compresses() -> None:
    module, params = small(base=3, step=2, classifiers=3)
    assert params.steps() == (3, 2, 2)
    # Seven layers in three parts of three: scale 0 goes with the fourth layer, scale 1 with the seventh.
    assert [params.finest(layer) for layer in range(1, 8)] == [0, 0, 0, 1, 1, 1, 2]
    assert channels(module) == [
        {0: 4, 1: 8, 2: 16},
        {0: 6, 1: 12, 2: 24},
        {0: 8, 1: 16, 2: 32},
        {0: 10, 1: 20, 2: 40},
        {1: 24, 2: 48},
        {1: 12, 2: 24},
        {1: 16, 2: 32},
        {1: 20, 2: 40},
        {2: 48},
        {2: 24},
    ]


def test_half_of_a_layer_comes_from_the_next_finer_scale() -> None:
    module, _ = small()
    layer = module.blocks[0][0]
    assert set(layer.finer) == {"1", "2"}
    assert layer.finer["1"][-1][0].out_channels == layer.same["1"][-1][0].out_channels == 2
    assert layer.same["0"][-1][0].out_channels == 2
    # Bottlenecks of 1, 2, 4 times the outputs, never wider than the inputs.
    assert layer.same["2"][0][0].out_channels == 16
    assert layer.finer["2"][0][0].out_channels == 8


def test_the_network_gives_the_last_of_its_exits_and_each_has_every_weight_before_it() -> None:
    module, _ = small()
    images = torch.randn(2, 1, 16, 16)
    exits = module.eval().exits(images)
    assert torch.equal(module(images), exits[-1])
    assert [tuple(item.shape) for item in exits] == [(2, 3)] * 3
    sum(item.square().sum() for item in module.train().exits(images)).backward()
    assert [name for name, parameter in module.named_parameters() if parameter.grad is None] == []


def test_steps_may_grow() -> None:
    assert MSDNet(classifiers=4, base=1, step=1, spacing="growing").steps() == (1, 2, 3, 4)


def test_the_network_without_early_exits_computes_no_classifier_but_the_last() -> None:
    module, _ = small()
    _, signature = build_architecture({"name": "msdnet", "params": SMALL})
    heads = sum(
        # Two 3×3 convolutions on 2×2 and 1×1 places (from 4×4), and the linear layer.
        9 * head.features[0][0].in_channels * 6 * 4 + 9 * 6 * 6 + 6 * 3
        for head in module.classifiers[:-1]
    )
    plain = count_module(module.eval(), signature).macs_count
    module.forward = module.exits  # type: ignore[assignment]
    assert count_module(module, signature).macs_count == plain + heads


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"growth": 3}, "even"), ({"bottleneck_factors": [1]}, "one entry for each"), ({"scale_factors": [1, 0, 4]}, "at least 1")],
)
def test_parameters_that_contradict_themselves_are_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(EngineError, match=says):
        small(**changes)
