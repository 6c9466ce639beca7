"""Builds image networks of timm."""

from __future__ import annotations

from torch import nn

from engine.architectures.libraries import imported, refused
from engine.architectures.timm.spec import TimmParams


def build(params: TimmParams) -> nn.Module:
    """The network with random weights. Raises `architecture_invalid` where timm is missing, or does not know it."""
    timm = imported("timm", "timm")
    if not timm.is_model(params.model):
        raise refused("timm", params.model, [name for name in timm.list_models() if name[:3] == params.model[:3]])
    sizes = {"img_size": params.image_size} if params.model.startswith(("vit_", "deit", "beit", "swin", "mixer_")) else {}
    module: nn.Module = timm.create_model(
        params.model, pretrained=False, num_classes=params.num_classes, in_chans=params.in_channels, scriptable=True, **sizes
    )
    return module
