"""Channels are followed through whatever moves, splits, gates or normalizes them; what cannot be cut is left whole with the true reason."""

import copy

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn
from torch.nn import functional

from engine.contract.errors import EngineError
from engine.contract.metadata import ModelMetadata
from engine.formats import load_network
from engine.formats.onnx.networks import ModuleNetwork
from engine.methods.pruning.spec import StructuredPruning
from engine.methods.pruning.structured_pruning import apply
from engine.structure.following.follower import FIXED_SIZE, SINGLE
from engine.structure.graph import ChannelGraph
from engine.structure.proof import removable
from tests.engine.conftest import CLASSES
from tests.engine.formats.onnx.exporting import export
from tests.engine.formats.onnx.networks import Case
from tests.engine.structure import images, sequences
from tests.engine.structure.masking import mask_as_cut


class Shuffled(nn.Module):
    """A unit of ShuffleNetV2 (Ma et al., 2018): half of the channels passes by, then both halves are interleaved."""

    def __init__(self):
        super().__init__()
        self.stem, self.inner, self.outer = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(8, 12, 1), nn.Conv2d(12, 8, 1)
        self.last, self.head = nn.Conv2d(16, 12, 3), nn.Linear(12, CLASSES)

    def forward(self, x):
        left, right = torch.relu(self.stem(x)).chunk(2, 1)
        y = torch.cat([left, torch.relu(self.outer(torch.relu(self.inner(right))))], 1)
        y = y.reshape(-1, 2, 8, 8, 8).transpose(1, 2).reshape(-1, 16, 8, 8)
        return self.head(torch.relu(self.last(y)).mean((2, 3)))


class Rolled(nn.Module):
    """The last rows come first, as shifted windows (Liu et al., 2021) are exported: a slice from the end, and one up to it."""

    def __init__(self):
        super().__init__()
        self.rows, self.inner = nn.Linear(8, 8), nn.Linear(8, 12)
        self.outer, self.head = nn.Linear(12, 10), nn.Linear(10, CLASSES)

    def forward(self, x):
        y = torch.relu(self.rows(x.flatten(1, 2)))
        y = torch.cat([y[..., -3:], y[..., :-3]], -1)
        return self.head(torch.relu(self.outer(torch.relu(self.inner(y)))).mean(1))


class Encoder(nn.Module):
    """Two encoder layers that were made as one: their biases are equal, and exporters store equal tensors once."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
        self.embed, self.encoder = nn.Linear(6, 16), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        for weight in [weight for weight in self.parameters() if weight.ndim > 1]:
            nn.init.normal_(weight, std=0.3)

    def forward(self, x):
        return self.encoder(self.embed(x))


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


CUT = {
    images.Chunk: {"stem": 8, "c1": 8},
    images.SplitUneven: {"a": 6, "a#1": 12, "b": 8},
    images.Gate1: {"c1": 8, "c2": 8},
    images.RMSConv: {"a": 8, "b": 8},
    images.L2Norm: {"a": 8, "b": 8},
    images.Shuffle: {"a": 8, "up": 8, "b": 8},
    images.Unshuffle: {"a": 8, "b": 8},
    images.Keras: {"a": 8, "d": 12},
    images.Cbam: {"a": 8, "b": 8},
    images.DwMult: {"a": 8, "b": 8},
    images.SKNet: {"a": 8, "b1": 8, "z": 6},
    images.Ghost: {"a": 8, "p": 6, "d": 2, "o": 8},
    images.Res2: {"a": 4, "a#1": 4, "k.0": 4, "k.1": 4, "k.2": 4, "o": 8},
    images.MaxOut2: {"a": 8, "b": 8},
    sequences.FusedGate: {"up": 16},
    sequences.RMSNet: {"e": 12, "up": 16},
    sequences.Decoder: {"fc": 16, "t": 8},
    sequences.Merge: {"stem": 12, "red": 20},
    sequences.HeadBias: {"e": 16, "qkv": 4},
    sequences.AliBi: {"e": 16, "qkv": 4},
    sequences.HeadScale: {"e": 16, "qkv": 4},
    sequences.KerasBack: {"d": 4, "a": 8},
    sequences.Mixer: {"e": 12, "t1": 10, "c1": 16},
    sequences.ChanAttn: {"a": 8, "qkv": 2},
    sequences.NonLocal: {"a": 8, "q": 4, "v": 6},
    sequences.Tabular: {"a": 8, "t": 6, "d": 10},
    sequences.TabularRaw: {"a": 8, "d": 10},
    sequences.Recurrent: {"f": 16, "r": 12},
    sequences.LastState: {"f": 16, "r": 12},
}
"""For each network the groups of channels that can be cut, with the number of their units."""
RECURRENT = {
    "gru": lambda: sequences.LastState(nn.GRU),
    "rnn": lambda: sequences.Recurrent(nn.RNN),
    "both-ways": lambda: sequences.Recurrent(nn.LSTM, bidirectional=True),
    "two-layers": lambda: sequences.Recurrent(nn.LSTM, num_layers=2, bidirectional=True),
}


def made(make, folder, exporter):
    """The network as it was built, and as it is imported."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = make().eval()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn(parameter.shape) * 0.1)
    case = Case(lambda: module, (module.shape,))
    return load_network(export(module, case, folder / "net.onnx", exporter=exporter), "onnx", ModelMetadata(), folder)


def check(network, shape, groups, folder=None):
    """All groups are proved; half of the units masked and cut give the same (in `folder` in ONNX Runtime, too), and can be trained."""
    module = network.module
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    graph = ChannelGraph(module, (x,))
    found = {group.name: len(group.units) for group in graph.groups}
    assert removable(module, (x,), list(found), graph) == list(found), "every group that is found can be cut"
    if groups is not None:
        assert found == groups
    dead = copy.deepcopy(module)
    for group in ChannelGraph(dead, (x,)).groups:
        # Layers over positions write into every channel: there one is dead when nothing reads it.
        (mask_as_cut if "t1" in found else _kill)(group, group.units[1::2].flatten())
    cut = copy.deepcopy(dead)
    shrinking = ChannelGraph(cut, (x,))
    for group in shrinking.groups:
        shrinking.remove(group, group.units[1::2].flatten().tolist())
    with torch.no_grad():
        expected = dead(x)
        torch.testing.assert_close(cut(x), expected, atol=1e-5, rtol=1e-4)
        assert (module(x) - expected).abs().max() > 1e-3, "the channels mattered"
    cut.train()(x).sum().backward()
    assert all(parameter.grad is not None for parameter in cut.parameters())
    if folder is None:
        return
    ModuleNetwork(network.signature, cut.eval()).write_onnx(folder / "cut.onnx")
    (outside,) = ort.InferenceSession(folder / "cut.onnx", providers=["CPUExecutionProvider"]).run(None, {"in0": x.numpy()})
    np.testing.assert_allclose(outside, expected.numpy(), atol=1e-4, rtol=1e-3)


@torch.no_grad()
def _kill(group, channels):
    """Let channels carry exactly zero, as in a network that is to be pruned: only what computes them is zero, whoever reads them."""
    for part in group.parts:
        if part.outgoing and not isinstance(part.layer, nn.GroupNorm | nn.LayerNorm):
            places = part.indices[torch.isin(part.channels, channels)]
            if isinstance(part.layer, torch.Tensor):
                part.layer.index_fill_(part.dimension, places, 0.0)
                continue
            dimension = 1 if isinstance(part.layer, nn.Embedding) else int(getattr(part.layer, "transposed", False))
            part.layer.weight.index_fill_(dimension, places, 0.0)
            if getattr(part.layer, "bias", None) is not None:
                part.layer.bias[places] = 0


@pytest.mark.parametrize("make", CUT, ids=lambda make: make.__name__)
def test_dead_channels_of_every_kind_are_cut_and_nothing_changes(make, tmp_path):
    check(made(make, tmp_path, "legacy"), make.shape, CUT[make])


@pytest.mark.parametrize("name", RECURRENT)
def test_hidden_units_are_cut_in_all_directions_and_layers(name, tmp_path):
    check(made(RECURRENT[name], tmp_path, "legacy"), (6, 8), {"f": 16, "r": 12})


@pytest.mark.parametrize("make", [images.Chunk, sequences.RMSNet, sequences.Recurrent], ids=lambda make: make.__name__)
def test_the_new_exporters_form_is_followed_too(make, tmp_path):
    check(made(make, tmp_path, "dynamo"), make.shape, CUT[make], tmp_path)


@pytest.mark.parametrize(
    ("make", "shape", "groups"),
    [
        (Shuffled, (1, 8, 8), {"stem": 8, "stem#1": 8, "inner": 12, "last": 12}),
        (Rolled, (1, 8, 8), {"rows": 8, "inner": 12, "outer": 10}),
        (Rotary, (TOKENS, WIDTH), {"query": 2, "gate": 40}),
    ],
)
def test_shuffled_rolled_and_rotated_channels_are_followed(make, shape, groups, tmp_path):
    make.shape = shape
    check(made(make, tmp_path, "legacy"), shape, groups, tmp_path if make is Rotary else None)


def test_a_networks_own_code_that_takes_widths_for_granted_is_found():
    module, inputs = Shuffled().eval(), (torch.randn(2, 1, 8, 8),)
    names = [group.name for group in ChannelGraph(module, inputs).groups]
    assert removable(module, inputs, names) == ["inner", "last"], "chunk(2) takes for granted that both halves are as wide"
    assert removable(Rolled().eval(), inputs, ["rows", "inner", "outer"]) == ["inner", "outer"]


def test_rounds_cut_on_from_where_the_last_one_ended(tmp_path, world):
    network = made(sequences.RMSNet, tmp_path, "legacy")
    x = torch.randn(3, 4, 8)
    module = network.module
    for _ in range(2):
        graph = ChannelGraph(module, (x,))
        group = next(group for group in graph.groups if group.name == "e")
        _kill(group, group.units[:3].flatten())
        with torch.no_grad():
            expected = module(x)
        graph.remove(group, group.units[:3].flatten().tolist())
        torch.testing.assert_close(module(x), expected, atol=1e-5, rtol=1e-4)
    assert module.e.out_features == 6


REASONS = {
    "softmax": ("a", "softmax is taken over them"),
    "variance": ("a", "a variance is taken over them"),
    "input": ("a", FIXED_SIZE),
    "single": ("gate", SINGLE),
    "sorted": ("a", "sort is taken over them"),
}


class Reasons(nn.Module):
    """Something that `a`'s channels cannot go through."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.a, self.gate, self.b, self.fc = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 1, 1), nn.Conv2d(8, 6, 1), nn.Linear(6, 5)

    def forward(self, x):
        y = self.a(x)
        if self.kind == "softmax":
            y = torch.softmax(y, 1)
        elif self.kind == "variance":
            y = y / y.var(1, keepdim=True)
        elif self.kind == "input":
            y = y + x
        elif self.kind == "sorted":
            y = y.sort(1)[0]
        else:
            y = y * torch.sigmoid(self.gate(y))
        return self.fc(torch.relu(self.b(y)).mean((2, 3)))


@pytest.mark.parametrize("kind", REASONS)
def test_what_stays_is_told_with_the_true_reason(kind, world):
    module, (layer, reason) = Reasons(kind).eval(), REASONS[kind]
    graph = ChannelGraph(module, (torch.randn(2, 8, 4, 4),))
    assert graph.fixed == {layer: reason}
    assert {group.name for group in graph.groups} == {"a", "gate", "b"} - {layer} - ({"gate"} if kind != "single" else set())


def test_where_nothing_can_be_cut_the_error_says_why(world):
    setting = world(nn.Sequential(nn.Conv2d(1, 8, 8), nn.Softmax(1), nn.Flatten(), nn.Linear(8, 5)).eval())
    with pytest.raises(EngineError) as refused:
        apply(setting.network, StructuredPruning(), setting.context)
    assert (refused.value.code, refused.value.details["reasons"]) == ("pruning_impossible", {"0": "softmax is taken over them"})
    assert "0: softmax is taken over them." in refused.value.message


@pytest.mark.parametrize("exporter", ["dynamo", "legacy"])
def test_layers_that_share_a_bias_are_cut_apart(exporter, tmp_path):
    case = Case(Encoder, ((7, 6),))
    module = load_network(export(case.network(), case, tmp_path / "net.onnx", exporter=exporter), "onnx", ModelMetadata(), tmp_path).module
    first, second = (module.get_submodule(f"encoder.layers.{number}.linear1") for number in range(2))
    assert torch.equal(first.bias, second.bias)
    assert first.bias is not second.bias, "that they are equal is no tie"
    first.bias = second.bias
    for name in ("encoder.layers.0.linear1", "encoder.layers.1.linear1"):
        assert removable(module, case.inputs(2), [name]) == [name]
    assert first.bias is second.bias
