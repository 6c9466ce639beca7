"""Cutting channels out equals masking them, in every way in which layers tie channels; what cannot be cut is found."""

import copy

import onnxruntime
import pytest
import torch
from torch import nn

from engine.formats.onnx.networks import ModuleNetwork
from engine.networks.network import Signature, TensorSpec
from engine.structure.channels import is_single, zero_slices
from engine.structure.graph import ChannelGraph
from engine.structure.plan import Costs, rank
from engine.structure.proof import removable
from tests.engine.structure.masking import mask_as_cut

X = (torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)),)


def half(group):
    order = torch.randperm(len(group.units), generator=torch.Generator().manual_seed(len(group.units)))
    return group.units[order[: len(group.units) // 2]].reshape(-1).tolist()


@pytest.mark.parametrize("traced", [False, True], ids=["native", "fx"])
def test_sliced_output_equals_masked_output(shaped, traced):
    module = torch.fx.symbolic_trace(shaped) if traced else shaped
    cut, masked = copy.deepcopy(module), copy.deepcopy(module)
    graph, shadow = ChannelGraph(cut, X), ChannelGraph(masked, X)
    for group, twin in zip(graph.groups, shadow.groups, strict=True):
        channels = half(group)
        for part in twin.parts:
            zero_slices(part, part.indices[torch.isin(part.channels, torch.tensor(channels))])
        graph.remove(group, channels)
    with torch.no_grad():
        assert (cut(*X) - masked(*X)).abs().max() < 1e-4
        assert (cut(*X) - module(*X)).abs().max() > 1e-2, "the removed channels mattered"
    cut(*X).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in cut.parameters())
    assert sum(p.numel() for p in cut.parameters()) < 0.75 * sum(p.numel() for p in module.parameters())


def test_every_layer_but_the_output_can_be_cut(shaped):
    graph = ChannelGraph(shaped, X)
    produced = {name for group in graph.groups for name in group.layers}
    layers = [name for name, layer in shaped.named_modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]
    dangling = [name for name in layers if not is_single(shaped.get_submodule(name)) and name not in produced]
    assert dangling == [layers[-1]]
    names = [group.name for group in graph.groups]
    assert removable(shaped, X, names) == names


def test_residual_layers_are_cut_together(network_of):
    graph = ChannelGraph(network_of("residual"), X)
    assert {frozenset(group.layers) for group in graph.groups} == {
        frozenset({"stem.0", "one.3"}),
        frozenset({"one.0"}),
        frozenset({"two.0"}),
        frozenset({"two.3", "project"}),
    }


def test_grouped_convolutions_lose_the_same_from_every_group(network_of):
    module = network_of("grouped")
    graph = ChannelGraph(module, X)
    group = next(group for group in graph.groups if group.name == "grouped")
    assert group.units.tolist() == [[i, i + 6, i + 12, i + 18] for i in range(6)]
    graph.remove(group, group.units[2].tolist())
    assert (module.grouped.out_channels, module.grouped.groups) == (20, 4)


class Fixed(nn.Module):
    """`bad` is tied to a size written into the graph, `good` is not."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.bad, self.good, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1), nn.Linear(6, 5)
        if kind == "input":
            self.bad = nn.Conv2d(4, 4, 3, padding=1)
            self.good = nn.Conv2d(4, 6, 3, padding=1)
        self.register_buffer("scale", torch.rand(8, 8, 8) + 0.5)
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        y = self.bad(x)
        if self.kind == "reshape":
            y = y.reshape(-1, 8, 64).reshape(-1, 8, 8, 8)
        elif self.kind == "input":
            y = y + x
        elif self.kind == "shuffle":
            y = y.reshape(y.shape[0], 2, y.shape[1] // 2, 8, 8).transpose(1, 2).reshape(y.shape[0], -1, 8, 8)
        elif self.kind == "constant":
            y = y * self.scale
        elif self.kind == "softmax":
            y = torch.softmax(y, 1)
        return self.head(torch.relu(self.good(y)).mean((2, 3)))


@pytest.mark.parametrize("kind", ["reshape", "input", "softmax"])
def test_channels_that_only_seem_removable_are_found(kind):
    torch.manual_seed(0)
    module = Fixed(kind).eval()
    x = (torch.randn(2, 4, 8, 8),) if kind == "input" else X
    names = [group.name for group in ChannelGraph(module, x).groups]
    assert removable(module, x, names) == ["good"]


@pytest.mark.parametrize("kind", ["shuffle", "constant"])
def test_shuffled_channels_and_tables_are_followed(kind):
    torch.manual_seed(0)
    module = Fixed(kind).eval()
    assert removable(module, X, ["bad", "good"]) == ["bad", "good"]


class Positions(nn.Module):
    """Tokens and places are looked up, as in BERT; exporters leave a table of the places behind that is a constant."""

    def __init__(self):
        super().__init__()
        self.tokens, self.norm = nn.Embedding(20, 12), nn.LayerNorm(12)
        self.register_buffer("places", torch.randn(1, 6, 12))
        self.up, self.down, self.head = nn.Linear(12, 16), nn.Linear(16, 12), nn.Linear(12, 5)

    def forward(self, tokens):
        x = self.norm(self.tokens(tokens) + self.places)
        return self.head((x + self.down(torch.relu(self.up(x)))).mean(1))


def test_a_constant_loses_what_belongs_to_the_channels_it_is_added_to(tmp_path):
    torch.manual_seed(0)
    module, tokens = Positions().eval(), (torch.randint(0, 20, (3, 6)),)
    cut, masked = copy.deepcopy(module), copy.deepcopy(module)
    graph, shadow = ChannelGraph(cut, tokens), ChannelGraph(masked, tokens)
    width = next(group for group in graph.groups if "down" in group.layers)
    assert removable(module, tokens, ["down", "up"]) == ["down", "up"]
    ranked = [rank(width, torch.arange(12.0), 12)]
    expected = Costs(cut, tokens).params_count(ranked, [4])
    mask_as_cut(next(group for group in shadow.groups if group.name == width.name), torch.arange(4))
    graph.remove(width, [0, 1, 2, 3])
    assert torch.equal(dict(cut.named_buffers())["places"], module.places[..., 4:]), "and it is no parameter that is trained"
    assert torch.equal(cut.tokens.weight, module.tokens.weight[:, 4:])
    assert sum(p.numel() for p in cut.parameters()) == expected
    with torch.no_grad():
        assert (cut(*tokens) - masked(*tokens)).abs().max() < 1e-5
    signature = Signature((TensorSpec("tokens", (None, 6), "int64"),), (TensorSpec("y", (None, 5)),))
    ModuleNetwork(signature, cut).write_onnx(tmp_path / "cut.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "cut.onnx", providers=["CPUExecutionProvider"])
    assert torch.allclose(torch.from_numpy(session.run(None, {"tokens": tokens[0].numpy()})[0]), cut(*tokens), atol=1e-5)


def test_a_constant_factor_of_every_channel_is_cut_with_it():
    torch.manual_seed(0)
    module = Fixed("constant").eval()
    module.register_buffer("scale", torch.rand(8, 1, 1) + 0.5)
    assert removable(module, X, ["bad", "good"]) == ["bad", "good"]


class Normalized(nn.Module):
    """Channels behind layer or group normalization, which computes with all of them at once; halves of `mirrored` ones change places."""

    def __init__(self, kind, *, mirrored=False):
        super().__init__()
        self.mirrored, self.along = mirrored, 1 if kind == "group" else -1
        self.bad = nn.Conv2d(1, 12, 3, padding=1)
        self.norm = nn.GroupNorm(4, 12) if kind == "group" else nn.LayerNorm(12)
        self.good, self.head = nn.Linear(12, 6), nn.Linear(6, 5)

    def forward(self, x):
        y = self.bad(x)
        y = self.norm(y) if self.along == 1 else self.norm(y.permute(0, 2, 3, 1))
        if self.mirrored:
            y = torch.cat([y.narrow(self.along, 6, 6), y.narrow(self.along, 0, 6)], self.along)
        y = y.permute(0, 2, 3, 1) if self.along == 1 else y
        return self.head(torch.relu(self.good(torch.relu(y))).mean((1, 2)))


@pytest.mark.parametrize("kind", ["layer", "group"])
def test_behind_normalization_a_cut_is_a_mask_that_is_left_out_of_the_mean(kind):
    torch.manual_seed(0)
    module = Normalized(kind).eval()
    with torch.no_grad():
        for parameter in module.norm.parameters():
            parameter.add_(torch.randn(parameter.shape))
    cut, masked = copy.deepcopy(module), copy.deepcopy(module)
    graph, shadow = ChannelGraph(cut, X), ChannelGraph(masked, X)
    assert removable(module, X, ["bad", "good"]) == ["bad", "good"]
    for group, twin in zip(graph.groups, shadow.groups, strict=True):
        assert group.mixes == (group.name == "bad")
        mask_as_cut(twin, torch.tensor(half(group)))
        graph.remove(group, half(group))
    with torch.no_grad():
        assert (cut(*X) - masked(*X)).abs().max() < 1e-5
        assert (cut(*X) - module(*X)).abs().max() > 1e-2, "the removed channels mattered"


@pytest.mark.parametrize("kind", ["layer", "group"])
def test_sizes_in_the_networks_own_code_are_found_behind_normalization_too(kind):
    torch.manual_seed(0)
    module = Normalized(kind, mirrored=True).eval()
    assert {group.name for group in ChannelGraph(module, X).groups} == {"bad", "good"}, "the graph thinks that it can follow them"
    assert removable(module, X, ["bad", "good"]) == ["good"]


def test_a_layer_whose_channels_leave_the_network_is_kept():
    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.body, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3), nn.Linear(6, 5)

        def forward(self, x):
            features = self.body(torch.relu(self.stem(x)))
            return self.head(features.mean((2, 3))), torch.sigmoid(features)

    assert [group.name for group in ChannelGraph(TwoHeads().eval(), X).groups] == ["stem"]


class Emptied(nn.Module):
    """An output without elements, as a slice that the exported settings leave nothing of."""

    def __init__(self):
        super().__init__()
        self.hidden, self.head = nn.Conv2d(1, 8, 3), nn.Linear(8, 5)

    def forward(self, x):
        scores = self.head(torch.relu(self.hidden(x)).mean((2, 3)))
        return scores, scores[:, :0]


def test_an_output_without_elements_stands_in_no_ones_way():
    assert removable(Emptied(), X, ["hidden"]) == ["hidden"]
