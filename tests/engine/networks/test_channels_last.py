"""Channels last is a matter of speed only."""

import pytest
import torch
from torch import nn

from engine.networks.channels_last import channels_last


class Viewed(nn.Module):
    """Flattens with `view`, which refuses other layouts."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(256, 5)

    def forward(self, x):
        return self.head(self.conv(x).view(len(x), -1))


@pytest.mark.parametrize("viewed", [True, False])
def test_outputs_are_the_same_and_the_layout_is_put_back(viewed):
    module = Viewed() if viewed else nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Flatten(), nn.Linear(256, 5))
    conv = module.conv if viewed else module[0]
    x = torch.randn(3, 2, 8, 8)
    expected = module(x)
    module.train()
    with channels_last(module, (x,)):
        assert conv.weight.is_contiguous() == viewed
        assert module.training
        torch.testing.assert_close(module(x), expected)
        with channels_last(module, (x,)):
            torch.testing.assert_close(module(x), expected)
        assert conv.weight.is_contiguous() == viewed
    assert conv.weight.is_contiguous()
