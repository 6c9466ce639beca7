"""Trials without values are run once for like operands, and operands that differ in anything that counts are not alike."""

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from engine.formats.onnx.importer.names import Names
from engine.formats.onnx.importer.trials import Trials, described, of_function, of_layer


def meta(*shape: int, **options: Any) -> torch.Tensor:
    return torch.empty(*shape, device="meta", **options)


def counting(calls: list[int], result: Any) -> Callable[[], Any]:
    def run() -> Any:
        calls.append(1)
        return result

    return run


def test_like_operands_are_tried_once() -> None:
    trials, calls = Trials(), list[int]()
    for _ in range(3):
        assert trials.of(of_function(torch.add), ((meta(2, 3), meta(2, 3)), {"alpha": 2}), counting(calls, "sum")) == "sum"
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((meta(2, 3),), (meta(3, 2),)),
        ((meta(2, 3),), (meta(2, 3, dtype=torch.int64),)),
        ((meta(2, 3),), (meta(3, 2).t(),)),
        (([meta(2), meta(2)], meta(2)), ([meta(2)], meta(2), meta(2))),
        (((meta(2),), {"dim": 0}), ((meta(2),), {"dim": 1})),
        (((meta(2),), {"dim": 0}), ((meta(2),), {"axis": 0})),
        ((meta(2), 1), (meta(2), 1.0)),
        ((meta(2), 1), (meta(2), True)),
        (((meta(2), (1, 2)),), ((meta(2), 1, 2),)),
    ],
)
def test_operands_that_differ_are_not_alike(one: Any, other: Any) -> None:
    assert described(one) != described(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3, padding=1)),
        (nn.Conv2d(3, 4, 3), nn.Conv2d(3, 5, 3)),
        (nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3, bias=False)),
        (nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 3, 3)),
        (nn.Linear(3, 4), nn.Linear(3, 4, dtype=torch.float64)),
        (nn.Softmax(1), nn.Softmax(2)),
        (nn.MaxPool2d(2), nn.MaxPool2d(2, ceil_mode=True)),
    ],
)
def test_layers_that_differ_are_not_alike(one: nn.Module, other: nn.Module) -> None:
    assert None not in (of_layer(one), of_layer(other))
    assert of_layer(one) != of_layer(other)
    assert of_layer(one) == of_layer(one)


def test_what_may_hold_something_is_tried_each_time() -> None:
    class Own(nn.ReLU):
        """Whose forward nobody knows."""

    hooked = nn.ReLU()
    hooked.register_forward_hook(lambda *_: None)
    assert [of_layer(layer) for layer in (Own(), nn.Sequential(nn.ReLU()), hooked)] == [None] * 3
    assert of_function(lambda tensor: tensor) is None
    trials, calls = Trials(), list[int]()
    for _ in range(2):
        trials.of(None, (meta(2),), counting(calls, 0))
        trials.of(("slice",), (meta(2), {1, 2}), counting(calls, 0))  # a set cannot be a key
    assert len(calls) == 4


def test_ten_thousand_layers_of_one_name_are_named_in_no_time() -> None:
    names, began = Names(), time.process_time()
    found = [names.claim("block.conv", "layer") for _ in range(10_000)]
    assert time.process_time() - began < 2
    assert len(set(found)) == len(found)
    assert found[:3] == ["block.conv", "block.conv_1", "block.conv_2"]
