"""Builds image classifiers of torchvision."""

from __future__ import annotations

import inspect

from torch import nn

from engine.architectures.libraries import imported, refused
from engine.architectures.torchvision.spec import TorchvisionParams


def build(params: TorchvisionParams) -> nn.Module:
    """The network with random weights. Raises `architecture_invalid` where torchvision is missing, or does not know it."""
    models = imported("torchvision", "torchvision").models
    if params.model not in models.list_models(module=models):
        raise refused("torchvision", params.model, models.list_models(module=models))
    named = inspect.signature(models.get_model_builder(params.model)).parameters
    sizes = {"image_size": params.image_size} if "image_size" in named else {}
    module: nn.Module = models.get_model(params.model, weights=None, num_classes=params.num_classes, **sizes)
    if getattr(module, "aux_logits", False):
        module.aux_logits = False  # type: ignore[assignment]  # torch takes attributes of a module for tensors and modules
    return module
