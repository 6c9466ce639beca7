"""Operations that channels cannot be followed through end the dependency graph; everything beside them is still cut, and rightly."""

import copy
from types import SimpleNamespace

import onnxruntime as ort
import pytest
import torch
from torch import nn

from engine.contract.errors import EngineError
from engine.contract.metadata import ModelMetadata
from engine.formats import load_network
from engine.methods.pruning.spec import StructuredPruning
from engine.methods.pruning.structure.boundaries import RECURRENT, REGROUPED, Boundaries
from engine.methods.pruning.structure.channels import mask_channels
from engine.methods.pruning.structure.graph import UNFOLLOWED, ChannelGraph, removable
from engine.methods.pruning.structured_pruning import apply
from tests.engine.conftest import CLASSES
from tests.engine.formats.onnx.exporting import export
from tests.engine.formats.onnx.networks import Case


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


class Recurrent(nn.Module):
    """Convolutions over time, then a recurrent layer in both directions."""

    def __init__(self, layer):
        super().__init__()
        self.first, self.second = nn.Conv1d(8, 12, 3, padding=1), nn.Conv1d(12, 10, 3, padding=1)
        self.recurrent, self.head = layer(10, 6, batch_first=True, bidirectional=True), nn.Linear(12, CLASSES)

    def forward(self, x):
        y = torch.relu(self.second(torch.relu(self.first(x.flatten(1, 2)))))
        return self.head(self.recurrent(y.transpose(1, 2))[0].mean(1))


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


NETWORKS = {
    "shuffle": (Shuffled, {"inner", "last"}, {"stem": REGROUPED, "outer": REGROUPED}),
    "gru": (lambda: Recurrent(nn.GRU), {"first"}, {"second": RECURRENT}),
    "rnn": (lambda: Recurrent(nn.RNN), {"first"}, {"second": RECURRENT}),
    "lstm": (lambda: Recurrent(nn.LSTM), {"first", "second"}, {}),
}


@pytest.fixture
def case(name):
    make, cut, fixed = NETWORKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SimpleNamespace(module=make().eval(), cut=cut, fixed=fixed)


@pytest.mark.parametrize(("name", "exporter"), [("shuffle", "legacy"), ("gru", "dynamo")])
def test_an_uploaded_network_is_cut_up_to_the_boundary_and_runs_elsewhere(world, tmp_path, case, exporter):
    path = export(case.module, Case(lambda: case.module, ((1, 8, 8),)), tmp_path / "x.onnx", exporter=exporter)
    network = load_network(path, "onnx", ModelMetadata(), tmp_path)
    setting = world(network.module)
    result = apply(network, StructuredPruning(pruning_ratio=0.5), setting.context)
    widths = {name: (row["channels_before"], row["channels_after"]) for name, row in setting.context.reported["layers"].items()}
    assert {name for name, (before, after) in widths.items() if after == before // 2} == case.cut
    assert all(after == before for name, (before, after) in widths.items() if name not in case.cut)
    told = {event.code: event.details for event in setting.of("warning")}
    assert told["layers_not_removable"]["reasons"] == case.fixed
    result.write_onnx(tmp_path / "pruned.onnx")
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    (outside,) = ort.InferenceSession(tmp_path / "pruned.onnx").run(None, {"in0": x.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(outside), result.module(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_cutting_beside_a_boundary_is_masking(case):
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    cut, masked = copy.deepcopy(case.module), copy.deepcopy(case.module)
    graph, shadow = ChannelGraph(cut, (x,)), ChannelGraph(masked, (x,))
    assert graph.fixed == case.fixed
    for group, twin in zip(graph.groups, shadow.groups, strict=True):
        mask_channels(twin, twin.units[1::2].flatten())
        graph.remove(group, group.units[1::2].flatten().tolist())
    torch.testing.assert_close(cut(x), masked(x), atol=1e-5, rtol=1e-4)
    assert (cut(x) - case.module(x)).abs().max() > 1e-3
    cut(x).sum().backward()
    assert all(parameter.grad is not None for parameter in cut.parameters())


def test_a_boundary_changes_no_value_and_only_channels_count():
    with Boundaries() as active:
        x = torch.randn(2, 8, 4, 4, requires_grad=True)
        assert torch.equal(x.view(2, 2, 4, 4, 4).transpose(1, 2).reshape(2, 8, 4, 4), x[:, [0, 4, 1, 5, 2, 6, 3, 7]])
        assert [(given is x, reason) for given, reason in active.crossed] == [(True, REGROUPED)]
        tokens = torch.randn(2, 16, 8, requires_grad=True)
        assert tokens.view(2, 4, 4, 8).requires_grad, "tokens become an image"
        assert tokens.view(2, 16, 2, 4).requires_grad, "heads"
        assert x.reshape(2, -1).requires_grad
        assert x.flatten(2).requires_grad
        assert len(active.crossed) == 1


def test_a_graph_that_fails_for_one_layer_still_has_the_others(monkeypatch):
    import torch_pruning

    original = torch_pruning.DependencyGraph.get_pruning_group

    def failing(self, layer, *rest):
        if getattr(layer, "out_channels", None) == 10:
            raise IndexError
        return original(self, layer, *rest)

    monkeypatch.setattr(torch_pruning.DependencyGraph, "get_pruning_group", failing)
    graph = ChannelGraph(Recurrent(nn.LSTM).eval(), (torch.randn(2, 1, 8, 8),))
    assert graph.fixed == {"second": UNFOLLOWED}
    assert [group.name for group in graph.groups] == ["first"]


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


def test_a_slice_from_the_end_leaves_its_layer_whole():
    module, inputs = Rolled().eval(), (torch.randn(2, 1, 8, 8),)
    graph = ChannelGraph(module, inputs)
    assert graph.fixed == {"rows": UNFOLLOWED}
    assert removable(module, inputs, [group.name for group in graph.groups]) == ["outer", "inner"]


@pytest.mark.parametrize("name", ["gru"])
def test_where_nothing_can_be_cut_the_error_says_why(world, case):
    setting = world(case.module)
    with pytest.raises(EngineError) as refused:
        apply(setting.network, StructuredPruning(include=["second"]), setting.context)
    assert (refused.value.code, refused.value.details["reasons"]) == ("pruning_impossible", {"second": RECURRENT})
    assert f"second: {RECURRENT}." in refused.value.message
