"""Files whose exporter folded no constants, as the hint of this project recommends: nodes stand between a layer and its weights."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from engine.contract.metadata import ModelMetadata
from engine.formats import load_network
from tests.engine.formats.onnx.exporting import export
from tests.engine.formats.onnx.networks import Case


class Normalized(nn.Module):
    """Group normalization of pictures whose scale and offset are not those that all have at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.GroupNorm(4, 8)
        self.other = nn.GroupNorm(2, 8)
        self.head = nn.Linear(8, 3)
        nn.init.normal_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.other(torch.relu(self.norm(self.conv(x)))).mean((2, 3)))


@pytest.mark.parametrize("keep_norms", [False, True])
def test_group_normalization_stays_a_layer(keep_norms: bool, tmp_path: Path) -> None:
    case = Case(Normalized, ((3, 8, 8),))
    module = case.network()
    path = export(module, case, tmp_path / "in.onnx", exporter="legacy", keep_norms=keep_norms)
    found = load_network(path, "onnx", ModelMetadata(), tmp_path).module
    assert sorted(layer.num_groups for layer in found.modules() if isinstance(layer, nn.GroupNorm)) == [2, 4]
    (x,) = case.inputs(5)
    torch.testing.assert_close(found(x), module(x), atol=1e-5, rtol=1e-5)
