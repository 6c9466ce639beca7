"""Exported programs in half precision: trained in single, with the types of their inputs and outputs, and every kind of step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from engine.contract.metadata import ModelMetadata
from engine.formats.loading import load_network, write_network
from tests.engine.formats.pt2.test_read import load, program
from tests.engine.jobs.test_strangers import data, ran

HALF = {torch.float16: onnx.TensorProto.FLOAT16, torch.bfloat16: onnx.TensorProto.BFLOAT16}
NETWORKS: dict[str, tuple[tuple[int, ...], Any]] = {
    "cnn": (
        (1, 8, 8),
        lambda: nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(32, 7)),
    ),
    "mlp": ((12,), lambda: nn.Sequential(nn.Linear(12, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 7))),
}


@pytest.mark.parametrize(("name", "dtype"), [("cnn", torch.float16), ("mlp", torch.float16), ("mlp", torch.bfloat16)])
def test_half_precision_trains_in_single_and_is_published_between_its_own_types(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    shape, make = NETWORKS[name]
    torch.manual_seed(0)
    original = make().eval().to(dtype)
    network = load(program(original, (torch.randn(2, *shape, dtype=dtype),)), tmp_path)
    inputs = torch.randn(32, *shape, dtype=dtype)
    with torch.no_grad():
        expected, found = original(inputs).float(), network.module(inputs)
    assert network.weights_type == ("float16" if dtype == torch.float16 else "float32")
    assert (expected - found).abs().max() <= 4 * torch.finfo(dtype).eps * expected.abs().max()

    module, targets = network.module.train(), torch.randint(0, 7, (32,))
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    losses = []
    for _ in range(20):
        losses.append(nn.functional.cross_entropy(module(inputs), targets))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]

    trained = network.with_module(module.eval()).plain()
    model = onnx.load(write_network(trained, "onnx", tmp_path / "out.onnx")[0])
    assert [item.type.tensor_type.elem_type for item in (*model.graph.input, *model.graph.output)] == [HALF[dtype]] * 2
    assert any(item.data_type == onnx.TensorProto.FLOAT16 for item in model.graph.initializer) == (dtype == torch.float16)
    (path,) = write_network(trained, "pt2", tmp_path / "out.pt2")
    again = load_network(path, "pt2", ModelMetadata(), tmp_path)
    assert (again.signature.inputs[0].dtype, again.signature.outputs[0].dtype) == (str(dtype)[6:],) * 2
    with torch.no_grad():
        torch.testing.assert_close(again.module(inputs), trained.module(inputs))
        assert torch.export.load(path).module()(inputs).dtype == dtype  # our own file


@pytest.mark.parametrize(("name", "quantization"), [("cnn", "static_quantization"), ("mlp", "dynamic_quantization")])
def test_pruning_and_integers_take_a_half_precision_program(name: str, quantization: str, tmp_path: Path) -> None:
    shape, make = NETWORKS[name]
    torch.manual_seed(0)
    path = tmp_path / "model.pt2"
    path.write_bytes(program(make().eval().half(), (torch.randn(2, *shape).half(),)))
    pruning: list[dict[str, Any]] = [
        {"method": "structured_pruning", "pruning_ratio": 0.5},
        {"method": "magnitude_pruning", "sparsity": 0.5},
    ]
    events, report = ran(tmp_path, path, data(tmp_path / "data.npz", shape), *pruning, {"method": quantization})
    assert report, events[-1]
    model = onnx.load(tmp_path / "job" / "out" / "model.onnx")
    assert [item.type.tensor_type.elem_type for item in (*model.graph.input, *model.graph.output)] == [HALF[torch.float16]] * 2
    assert any(item.data_type in {onnx.TensorProto.INT8, onnx.TensorProto.UINT8} for item in model.graph.initializer)
