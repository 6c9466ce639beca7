"""Every method whose parameters take early stopping stops by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from engine.contract.method import catalogue
from engine.methods.step import implementation
from tests.engine.conftest import World, resnet

Build = Callable[..., World]
LENGTH = {"epochs": 3, "early_stopping": {"patience": 1}}
NEEDED: dict[str, dict[str, Any]] = {
    "autoslim": {"budget": {"params_ratio": 0.9}, "step": 0.5, "examples_count": 20},
    "slimmable": {"widths": [0.5, 1.0]},
    "skip_routing": {"supervised": LENGTH, "reinforcement": LENGTH},
    "specialists": {"count": 2, "distil": LENGTH},
    "binary_connect": {"ensemble_size": 0},
}
"""Beside the length, where a method has to be told more."""


def takes(method: str) -> dict[str, Any] | None:
    """A step of a method that stops early; None where it refuses to."""
    fields = catalogue()[method].model_fields
    step: dict[str, Any] = {"method": method, **NEEDED.get(method, {})}
    if "early_stopping" in fields:
        step |= LENGTH
    elif "finetune" in fields:
        step["finetune"] = LENGTH
    elif method != "skip_routing":
        return None
    try:
        catalogue()[method].model_validate(step)
    except ValueError:
        return None
    return step


@pytest.mark.parametrize("method", [name for name in catalogue() if takes(name) is not None])
def test_a_training_that_takes_early_stopping_stops_by_it(world: Build, trained_cnn: nn.Module, method: str) -> None:
    own = world(resnet() if method == "skip_routing" else trained_cnn)
    step = catalogue()[method].model_validate(takes(method))
    implementation(step)(own.network, step, own.context)
    assert own.context.reported.get("best_epoch", 0) >= 1
