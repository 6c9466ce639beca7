"""Running statistics of batch normalization, measured anew where a change of the network made the old ones wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.training.batches import Examples, batches

EXAMPLES_COUNT = 10_000
"""Examples that are enough for means and variances."""


def has_running_statistics(module: nn.Module) -> bool:
    """Whether any layer normalizes with statistics of the training."""
    return any(isinstance(layer, _BatchNorm) and layer.track_running_stats for layer in module.modules())


@torch.no_grad()
def recalibrate(module: nn.Module, examples: Examples, names: Sequence[str], device: torch.device, *, size: int = 256) -> None:
    """Set every running mean and variance to its average over the batches of `examples`, in place; weights stay as they are."""
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    momenta = [layer.momentum for layer in layers]
    mode = module.training
    module.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    count = min(examples.count, EXAMPLES_COUNT)
    size = min(size, count)
    # A last batch of few examples would count as much as a full one.
    for batch in batches(examples, names, size, device, np.arange(count - count % size)):
        module(*batch.inputs)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    module.train(mode)
