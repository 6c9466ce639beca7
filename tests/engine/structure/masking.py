"""Channels masked for good, as the proof of pruning masks them for one trial."""

import torch
from torch import Tensor

from engine.structure.channels import ChannelGroup, mask_channels
from engine.structure.proof import normalize_what_is_left


def mask_as_cut(group: ChannelGroup, channels: Tensor) -> None:
    """`mask_channels`, after which layer and group normalization leave the channels out, too."""
    mask_channels(group, channels)
    for part in group.parts:
        normalize_what_is_left(part, part.indices[torch.isin(part.channels, channels)])
