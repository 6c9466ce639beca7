"""LSTM, GRU and RNN as files: any batch and any number of steps, whatever the example had."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from engine.contract.metadata import ModelMetadata
from engine.formats.loading import load_network, write_network
from engine.formats.onnx import runtime


class Steps(nn.Module):
    """Gives the states of the last layer and what every layer ends in."""

    def __init__(self, kind: str, layers: int) -> None:
        super().__init__()
        self.rnn = getattr(nn, kind)(5, 4, num_layers=layers, bidirectional=True, batch_first=True)

    def forward(self, x: torch.Tensor, *starts: torch.Tensor) -> tuple[torch.Tensor, ...]:
        every, last = self.rnn(x, None if not starts else starts if len(starts) == 2 else starts[0])
        return (every, *last) if isinstance(last, tuple) else (every, last)


def published(path: Path, format: str, kind: str) -> Path:
    """The file, read and written again as ONNX."""
    network = load_network(path, format, ModelMetadata(), path.parent)
    written, *_ = write_network(network.with_module(network.module).plain(), "onnx", path.parent / "again.onnx")
    assert kind in {node.op_type for node in onnx.load(written).graph.node}
    return written


def check(original: nn.Module, path: Path, shape: tuple[int, ...], states: int = 0) -> None:
    given = [torch.randn(shape), *(torch.randn(2, shape[0], 4) for _ in range(states))]
    session = runtime.open_session(path, threads=1)
    with torch.no_grad():
        expected = original(*given)
    feed = {item.name: array.numpy() for item, array in zip(session.get_inputs(), given, strict=True)}
    for one, other in zip(expected, runtime.run(session, feed), strict=True):
        np.testing.assert_allclose(other, one.numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_two_layers_of_a_program(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    original = Steps(kind, 2).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(original, (torch.randn(3, 7, 5),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, tmp_path / "net.pt2")
    path = published(tmp_path / "net.pt2", "pt2", kind)
    check(original, path, (1, 7, 5))
    check(original, path, (8, 7, 5))


@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_any_number_of_steps(kind: str, states: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    original = Steps(kind, 1).eval()
    count = states * (2 if kind == "LSTM" else 1)
    names = ["x", *("h", "c")[:count]]
    axes = {"x": {0: "batch", 1: "steps"}, **{name: {1: "batch"} for name in names[1:]}}
    given = (torch.randn(3, 7, 5), *(torch.randn(2, 3, 4) for _ in range(count)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(original, given, str(tmp_path / "net.onnx"), dynamo=False, input_names=names, dynamic_axes=axes)
    path = published(tmp_path / "net.onnx", "onnx", kind)
    check(original, path, (3, 7, 5), count)
    check(original, path, (2, 30, 5), count)


def test_backwards(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weights = [onnx.numpy_helper.from_array(random.standard_normal((1, rows, size)).astype(np.float32), name) for name, rows, size in (("w", 16, 5), ("r", 16, 4))]  # fmt: skip
    node = onnx.helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=4, direction="reverse")
    shapes: list[tuple[str, list[str | int]]] = [("x", ["t", "b", 5]), ("y", ["t", 1, "b", 4])]
    ends = [onnx.helper.make_tensor_value_info(name, 1, shape) for name, shape in shapes]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", ends[:1], ends[1:], weights), ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 18)])  # fmt: skip
    onnx.save(model, tmp_path / "a.onnx")
    network = load_network(tmp_path / "a.onnx", "onnx", ModelMetadata(), tmp_path)
    path, *_ = write_network(network.with_module(network.module).plain(), "onnx", tmp_path / "b.onnx")
    feed = {"x": random.standard_normal((9, 3, 5)).astype(np.float32)}
    first, again = (runtime.run(runtime.open_session(file, threads=1), feed)[0] for file in (tmp_path / "a.onnx", path))
    np.testing.assert_allclose(again, first, atol=1e-5)
