"""Modules of plain code are followed and written without torch's exporter, and what cannot be followed is left to it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.architectures.build import build_architecture
from engine.formats.onnx import export as export_module
from engine.formats.onnx.counting import count_module, count_onnx
from engine.formats.onnx.export import OPSET
from engine.formats.onnx.writer import write
from engine.networks.example_inputs import example_inputs
from engine.networks.network import Signature, TensorSpec
from tests.engine.architectures.test_architectures import SMALL
from tests.engine.formats.onnx.test_importer import outputs, runtime_outputs
from tests.engine.structure.conftest import SHAPES, lively

BY_CODE = sorted(name for name in SMALL if "byte" not in name and not name.startswith("vit"))
"""All builtin architectures without attention."""


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left to the exporter."""
    monkeypatch.delattr(export_module, "_exported")


def agree(module: nn.Module, signature: Signature, path: Path) -> None:
    for batch in (1, 4):
        inputs = example_inputs(signature, batch, seed=batch)
        for want, got in zip(outputs(module, inputs), runtime_outputs(path, inputs), strict=True):
            np.testing.assert_allclose(got, want.numpy(), atol=1e-4, rtol=1e-3)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("name", BY_CODE)
def test_builtin_architectures_are_written_without_the_exporter(name: str, tmp_path: Path) -> None:
    module, signature = build_architecture({"name": name, "params": SMALL[name]})
    export_module.export_onnx(lively(module), signature, tmp_path / "out.onnx")
    agree(module, signature, tmp_path / "out.onnx")
    assert count_onnx(tmp_path / "out.onnx").macs_count == count_module(module, signature).macs_count


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("name", SHAPES)
def test_code_with_bare_parameters_and_shared_layers_is_followed(name: str, tmp_path: Path) -> None:
    module, signature = lively(SHAPES[name]()), Signature((TensorSpec("x", (None, 1, 8, 8)),), (TensorSpec("y", (None, 5)),))
    export_module.export_onnx(module, signature, tmp_path / "out.onnx")
    agree(module, signature, tmp_path / "out.onnx")


class Calls(nn.Module):
    """One function of an image."""

    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x)


IMAGE = TensorSpec("x", (None, 3, 6, 6))
CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda x: functional.relu(x) + x.relu(),
    "relu6": lambda x: functional.relu6(9 * x),
    "silu": functional.silu,
    "gelu": lambda x: functional.gelu(x) + functional.gelu(x, approximate="tanh"),
    "mish": functional.mish,
    "hard": lambda x: functional.hardswish(x) * functional.hardsigmoid(x),
    "leaky_relu": lambda x: functional.leaky_relu(x, 0.2) + functional.leaky_relu(x, negative_slope=0.3),
    "elu": lambda x: functional.elu(x, 0.5),
    "avg_pool2d": lambda x: functional.avg_pool2d(x, 2) + functional.avg_pool2d(x, 3, stride=2, padding=1),
    "max_pool2d": lambda x: functional.max_pool2d(x, 2) + functional.max_pool2d(x, 3, stride=2, padding=1),
    "adaptive_avg_pool2d": lambda x: functional.adaptive_avg_pool2d(x, 1),
    "methods": lambda x: x.mean((2, 3), keepdim=True).sigmoid() * x.abs().sum(-1, keepdim=True) - x.amax(1, keepdim=True).tanh(),
    "softmax": lambda x: x.flatten(2).softmax(-1).matmul(x.flatten(2).transpose(1, 2)),
}


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("name", CALLS)
def test_functions_and_methods_of_code_are_written(name: str, tmp_path: Path) -> None:
    module = Calls(CALLS[name]).eval()
    signature = Signature((IMAGE,), (TensorSpec("y", (None, *module(torch.zeros(1, 3, 6, 6)).shape[1:])),))
    export_module.export_onnx(module, signature, tmp_path / "out.onnx")
    agree(module, signature, tmp_path / "out.onnx")


LEFT: dict[str, Callable[[Tensor], Tensor]] = {
    "looks at a shape": lambda x: x + 1 if x.shape[1] == 3 else x,
    "looks at values": lambda x: x + 1 if float(x.sum()) > 0 else x,
    "overwrites what it reads again": lambda x: functional.relu(x * 1, inplace=True) + x.clone().mul_(2),
}


@pytest.mark.parametrize("name", LEFT)
def test_other_code_is_left_to_the_exporter(name: str) -> None:
    assert write.written(Calls(LEFT[name]).eval(), Signature((IMAGE,), (TensorSpec("y", IMAGE.shape),)), OPSET) is None
