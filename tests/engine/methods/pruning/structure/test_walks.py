"""Walks through the dependency graph end, also where torch-pruning takes positions for channels."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from engine.methods.pruning.structure.graph import UNFOLLOWED, ChannelGraph, removable
from engine.methods.pruning.structure.walks import EndlessWalkError, follow

WIDTH, HEADS, TOKENS, SIZE = 32, 4, 6, 8


class Rotary(nn.Module):
    """Attention with rotary embeddings (Su et al., 2021), each key head tiled for two query heads, and a gated block of width 40."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH // 2), nn.Linear(WIDTH, WIDTH // 2)
        self.out, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        self.gate, self.up, self.down = nn.Linear(WIDTH, 40), nn.Linear(WIDTH, 40), nn.Linear(40, WIDTH)
        angles = torch.arange(TOKENS)[:, None] * 10.0 ** -torch.arange(SIZE // 2)
        self.register_buffer("cos", torch.cat([angles.cos()] * 2, -1))
        self.register_buffer("sin", torch.cat([angles.sin()] * 2, -1))

    def turned(self, x):
        return x * self.cos + torch.cat([-x[..., SIZE // 2 :], x[..., : SIZE // 2]], -1) * self.sin

    def forward(self, x):
        query, key, value = (
            layer(x).view(-1, TOKENS, heads, SIZE).transpose(1, 2)
            for layer, heads in ((self.query, HEADS), (self.key, HEADS // 2), (self.value, HEADS // 2))
        )
        key, value = (item.unsqueeze(2).repeat(1, 1, 2, 1, 1).reshape(-1, HEADS, TOKENS, SIZE) for item in (self.turned(key), value))
        mixed = ((self.turned(query) @ key.transpose(-1, -2)) / SIZE**0.5).softmax(-1) @ value
        x = x + self.out(mixed.transpose(1, 2).reshape(-1, TOKENS, WIDTH))
        return self.head((x + self.down(functional.silu(self.gate(x)) * self.up(x))).mean(1))


class Merged(nn.Module):
    """Patches are shifted, and merged four by four, as in Swin (Liu et al., 2021)."""

    def __init__(self):
        super().__init__()
        self.stem, self.up, self.down = nn.Conv2d(3, 12, 2, 2), nn.Linear(12, 40), nn.Linear(40, 12)
        self.mix, self.merge, self.head = nn.Linear(12, 12), nn.Linear(48, 20), nn.Linear(20, 3)

    def forward(self, x):
        x = self.stem(x).permute(0, 2, 3, 1)
        x = x + torch.cat([self.mix(torch.cat([x[:, 2:], x[:, :2]], 1))[:, -2:], x[:, :-2]], 1)
        x = x + self.down(functional.gelu(self.up(x)))
        x = torch.cat([x[:, row::2, column::2] for row in (0, 1) for column in (0, 1)], -1)
        return self.head(functional.relu(self.merge(x)).mean((1, 2)))


@pytest.mark.parametrize(("make", "shape", "cut"), [(Rotary, (2, TOKENS, WIDTH), {"up"}), (Merged, (2, 3, 16, 16), {"up", "merge"})])
def test_what_can_be_followed_is_cut_beside_what_cannot(make, shape, cut):
    torch.manual_seed(0)
    module, inputs = make().eval(), (torch.randn(shape),)
    graph = ChannelGraph(module, inputs)
    assert set(removable(module, inputs, [group.name for group in graph.groups])) == cut
    assert UNFOLLOWED in graph.fixed.values()


def test_a_walk_in_circles_is_an_error():
    import torch_pruning

    module = Rotary().eval()
    graph = torch_pruning.DependencyGraph().build_dependency(module, torch.randn(2, TOKENS, WIDTH))
    with pytest.raises(EndlessWalkError):
        follow(graph, module.value, torch_pruning.prune_linear_out_channels, list(range(WIDTH // 2)))
    followed = follow(graph, module.up, torch_pruning.prune_linear_out_channels, [1, 3])
    assert {item.dep.target.module for item in followed if isinstance(item.dep.target.module, nn.Linear)} == {
        module.up,
        module.gate,
        module.down,
    }


def test_only_the_groups_that_are_asked_for_are_found():
    module, inputs = Merged().eval(), (torch.randn(2, 3, 16, 16),)
    (group,) = ChannelGraph(module, inputs, ["up"]).groups
    assert (group.name, len(group.units)) == ("up", 40)
