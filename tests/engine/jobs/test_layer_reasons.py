"""What is said of each layer before a job is what a pruning of it comes to."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from engine.contract.inspection import LayerInfo
from engine.contract.metadata import ModelMetadata
from engine.formats.loading import load_network
from engine.jobs.inspection import inspect_model
from engine.networks.example_inputs import example_inputs
from engine.structure.graph import ChannelGraph
from tests.engine.formats.onnx.files import BATCH, model, node, normal


class Residual(nn.Module):
    """A stem and a block that are added, a convolution of one channel, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.gate = nn.Conv2d(8, 1, 1)
        self.norm, self.hidden, self.head = nn.BatchNorm2d(8), nn.Linear(8, 6), nn.Linear(6, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.norm(self.stem(images))
        features = torch.relu(features + self.block(features))
        result: torch.Tensor = self.head(torch.relu(self.hidden(features.mean((2, 3)))))
        return result + self.gate(features).mean((2, 3))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("layers") / "net.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(Residual().eval(), (torch.zeros(2, 3, 8, 8),), dynamic_shapes=({0: torch.export.Dim("batch")},))
        torch.export.save(program, found)
    return found


@pytest.fixture(scope="module")
def layers(path: Path) -> dict[str, LayerInfo]:
    return {layer.name: layer for layer in inspect_model(path, "pt2", ModelMetadata(), path.parent).layers}


def test_layers_say_what_hangs_together_and_what_stays(layers: dict[str, LayerInfo]) -> None:
    assert {name: layer.channels_prunable for name, layer in layers.items() if layer.channels_prunable is not None} == {
        "stem": True,
        "block": True,
        "gate": False,
        "hidden": True,
        "head": False,
    }
    assert (layers["stem"].tied_layers, layers["block"].tied_layers, layers["hidden"].tied_layers) == (("block",), ("stem",), ())
    assert (layers["stem"].removable_units_count, layers["gate"].removable_units_count) == (7, 0)
    assert "one" in (layers["gate"].channels_reason or "").lower()
    assert layers["head"].channels_reason == layers["gate"].unprunable_reason == "It computes an output of the network, whose size stays."
    assert (layers["norm"].prunable, layers["norm"].unquantizable_reason) == (False, "It is neither a convolution nor a linear layer.")
    assert all((layer.unprunable_reason is None) == layer.prunable for layer in layers.values())
    assert all((layer.unquantizable_reason is None) == layer.quantizable for layer in layers.values())


def test_as_many_units_can_go_as_are_told(path: Path, layers: dict[str, LayerInfo]) -> None:
    for name in ("stem", "hidden"):
        network = load_network(path, "pt2", ModelMetadata(), path.parent)
        inputs = example_inputs(network.signature, 2)
        graph = ChannelGraph(network.module, inputs)
        group = next(group for group in graph.groups if name in group.layers)
        graph.remove(group, list(range(layers[name].removable_units_count or 0)))
        result: Any = network.module.get_submodule(name)
        assert (result.out_features if name == "hidden" else result.out_channels) == 1
        assert network.module(*inputs).shape == (2, 4)


def test_a_network_that_cannot_be_trained_gives_its_reason_for_every_layer(tmp_path: Path) -> None:
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Unique", ["h"], ["y"], sorted=1)]
    (tmp_path / "a.onnx").write_bytes(model(nodes, {"x": [BATCH, 4]}, ["y"], {"w": normal(4, 3)}).SerializeToString())
    found = inspect_model(tmp_path / "a.onnx", "onnx", ModelMetadata(), tmp_path)
    (layer,) = found.layers
    assert not found.trainable
    assert (layer.quantizable, layer.unquantizable_reason) == (True, None)
    assert found.untrainable_reason
    assert found.untrainable_reason in (layer.unprunable_reason or "")
