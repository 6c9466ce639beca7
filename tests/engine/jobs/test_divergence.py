"""A file in which one layer was changed: that layer is named."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from engine.formats.onnx.export import export_onnx
from engine.jobs.divergence import Divergence, first_divergence
from engine.networks.network import Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", (None, 3, 8, 8)),), (TensorSpec("y", (None, 5)),))


class Branched(nn.Module):
    """Convolutions with normalization that is folded at export, beside a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.left, self.right = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(self.stem(x)).relu()
        h = self.left(h).relu() + self.right(h)
        return self.head(h.mean((2, 3)))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    module = Branched().train()
    for _ in range(3):
        module(torch.randn(16, 3, 8, 8))
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    export_onnx(module.eval(), SIGNATURE, path)
    return module, path


def find(module: nn.Module, path: Path, work: Path) -> Divergence | None:
    feed = {"x": np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32)}
    return first_divergence(module, SIGNATURE, path, feed, absolute=1e-4, relative=1e-3, threads=1, work=work)


def test_a_true_file_has_no_such_layer(exported: tuple[nn.Module, Path], tmp_path: Path) -> None:
    assert find(*exported, tmp_path) is None


@pytest.mark.parametrize("layer", ["stem", "left", "right", "head"])
def test_the_layer_that_was_changed_is_named_with_its_difference(exported: tuple[nn.Module, Path], tmp_path: Path, layer: str) -> None:
    module, path = exported
    model = onnx.load(path)
    name = next(item.name for item in model.graph.initializer if item.name.startswith(layer) and len(item.dims) >= 2)
    for item in model.graph.initializer:
        if item.name == name:
            item.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(item) * np.float32(1.5), name))
    onnx.save(model, tmp_path / "wrong.onnx")
    found = find(module, tmp_path / "wrong.onnx", tmp_path)
    assert found is not None
    assert found.layer == layer
    assert found.max_abs_difference is not None
    assert 0.01 < found.max_abs_difference < 2 * found.max_abs_value
    assert layer in found.sentence()
    assert found.details()["layer"] == layer
