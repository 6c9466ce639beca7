"""An exported program can lose the channels that the network it was exported from can lose."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.architectures.build import build_architecture
from engine.contract.metadata import ModelMetadata
from engine.formats.loading import load_network
from engine.networks.example_inputs import example_inputs
from engine.structure.graph import ChannelGraph
from engine.structure.proof import removable

NETWORKS: list[dict[str, Any]] = [
    {"name": "resnet8"},
    {"name": "mobilenet_v2"},
    {"name": "vit_small_images", "params": {"depth": 1, "width": 16, "heads": 2}},
    {"name": "byte_transformer", "params": {"depth": 1, "width": 16, "heads": 2, "length": 8}},
]


@pytest.mark.parametrize("description", NETWORKS, ids=lambda each: each["name"])
def test_the_same_channels_can_go(description: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, signature = build_architecture(description)
    module.eval()
    examples = example_inputs(signature, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, examples, dynamic_shapes=({0: torch.export.Dim("batch")},))
        torch.export.save(program, tmp_path / "net.pt2")
    network = load_network(tmp_path / "net.pt2", "pt2", ModelMetadata(), tmp_path)
    found = []
    for each in (module, network.module):
        graph = ChannelGraph(each, examples)
        names = removable(each, examples, [group.name for group in graph.groups], graph)
        assert len(names) == len(graph.groups) > 1
        found.append(sorted((group.layers, group.channels_count, len(group.units)) for group in graph.groups))
    assert found[0] == found[1]


class Recurrent(torch.nn.Module):
    """The last step of a recurrent layer, and its state, behind an embedding."""

    def __init__(self, kind: Any, **options: Any) -> None:
        super().__init__()
        self.embed, self.layer = torch.nn.Embedding(50, 6), kind(6, 8, batch_first=True, **options)
        self.head = torch.nn.Linear(8 * (2 if options.get("bidirectional") else 1), 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        outputs, last = self.layer(self.embed(ids))
        return self.head(outputs[:, -1]) + (last[0] if isinstance(last, tuple) else last).mean()


@pytest.mark.parametrize(
    ("kind", "options", "units"),
    [
        (torch.nn.LSTM, {"num_layers": 2, "bidirectional": True}, 4 * 8),
        (torch.nn.GRU, {"bias": False}, 3 * 8),
        (torch.nn.RNN, {"nonlinearity": "relu"}, 8),
    ],
)
def test_recurrent_layers_are_layers_again_and_lose_hidden_units(kind: Any, options: dict[str, Any], units: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, ids = Recurrent(kind, **options).eval(), torch.randint(0, 50, (2, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(module, (ids,), dynamic_shapes=({0: torch.export.Dim("batch")},)), tmp_path / "net.pt2")
    network = load_network(tmp_path / "net.pt2", "pt2", ModelMetadata(), tmp_path)
    more = torch.randint(0, 50, (4, 5))
    torch.testing.assert_close(network.module(more), module(more))
    assert set(network.module.state_dict()) == set(module.state_dict())
    graph = ChannelGraph(network.module, (ids,))
    assert [(group.name, group.channels_count) for group in graph.groups] == [("layer", units)]
    assert list(removable(network.module, (ids,), ["layer"], graph)) == ["layer"]
