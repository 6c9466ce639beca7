"""Networks and parameters for the tests of early exits."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from engine.architectures.build import build_architecture
from engine.methods.dynamic.exits.network import ExitNetwork
from engine.methods.dynamic.spec_exits import EarlyExit
from tests.engine.conftest import CLASSES, World

Build = Callable[..., World]


class Residual(nn.Module):
    """Three residual blocks, between the second and third of which the features of the first are read once more."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))
            for _ in range(3)
        )
        self.fc = nn.Linear(width, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first = torch.relu(self.stem(images))
        second = torch.relu(first + self.blocks[0](first))
        third = torch.relu(second + self.blocks[1](second))
        last = torch.relu(third + self.blocks[2](third) + 0.5 * first)
        scores: torch.Tensor = self.fc(last.mean((2, 3)).reshape(last.shape[0], -1))
        return scores


def params(**changes: Any) -> EarlyExit:
    return EarlyExit.model_validate({"method": "early_exit", "iterations": 30, "learning_rate": 3e-3, **changes})


def exits_of(network: Any) -> ExitNetwork:
    assert isinstance(network.module, ExitNetwork)
    return network.module


def small_msdnet() -> nn.Module:
    """Three classifiers on two scales."""
    torch.manual_seed(0)
    small = {
        "in_channels": 1, "image_size": 8, "classifiers": 3, "base": 1, "step": 1, "channels": 4, "growth": 4,
        "scale_factors": [1, 2], "bottleneck_factors": [1, 2], "classifier_channels": 8, "num_classes": CLASSES,
    }  # fmt: skip
    return build_architecture({"name": "msdnet", "params": small})[0].eval()
