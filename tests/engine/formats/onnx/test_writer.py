"""Networks that this project writes itself: the same outputs for every batch, the same weights under the same names, and nothing wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import fx, nn
from torch.nn import functional

from engine.contract.metadata import ModelMetadata
from engine.formats import load_network
from engine.formats.onnx import export as export_module
from engine.formats.onnx.counting import count_onnx
from engine.formats.onnx.export import OPSET, plain
from engine.formats.onnx.writer import write
from engine.networks.network import Signature, TensorSpec
from tests.engine.formats.onnx.exporting import export
from tests.engine.formats.onnx.networks import CASES
from tests.engine.formats.onnx.test_importer import outputs, runtime_outputs

WRITTEN = set(CASES) - {"arithmetic", "unet"}


def saved(module: nn.Module, signature: Signature, path: Path) -> onnx.ModelProto | None:
    model = write.written(module, signature, OPSET)
    if model is not None:
        onnx.save(plain(model), path)
        onnx.checker.check_model(path, full_check=True)
    return model


@pytest.mark.parametrize("name", sorted(CASES))
def test_imported_networks_are_written_without_the_exporter(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    keep = name in ("resnet", "simple_cnn", "mobilenet")
    network = load_network(
        export(case.network(), case, tmp_path / "in.onnx", exporter="legacy", keep_norms=keep), "onnx", ModelMetadata(), tmp_path
    )
    module = network.module
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):  # statistics that folding has to reckon with
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_(generator=torch.Generator().manual_seed(1))
            layer.running_var.uniform_(0.5, 2, generator=torch.Generator().manual_seed(2))
    model = saved(module, network.signature, tmp_path / "out.onnx")
    assert (model is not None) == (name in WRITTEN)
    if model is None:
        return
    for batch in (1, 4):
        inputs = case.inputs(batch, seed=batch)
        for want, got in zip(outputs(module, inputs), runtime_outputs(tmp_path / "out.onnx", inputs), strict=True):
            np.testing.assert_allclose(got, want.numpy(), atol=1e-4, rtol=1e-4)
    again = load_network(tmp_path / "out.onnx", "onnx", ModelMetadata(), tmp_path).module
    if not keep:
        assert {key for key, _ in again.named_parameters()} == {key for key, _ in module.named_parameters()}
        written, read = (count_onnx(tmp_path / file).params_count for file in ("out.onnx", "in.onnx"))
        assert written == read if name != "tied_lm" else written < read, "one table instead of a matrix and its transpose"
    else:
        assert not any(node.op_type == "BatchNormalization" and node.name.startswith("/features") for node in model.graph.node)


CALLS: dict[str, Callable[..., Any]] = {
    "numbers on both sides": lambda x, t: torch.div(torch.sub(torch.mul(x, 2), 0.5), t),
    "comparisons": lambda x, t: torch.where(torch.gt(x, t), x, 0.25),
    "whole numbers compared with fractions": lambda x, t: torch.where(torch.lt(x.to(torch.int64), 0.5), x, t),
    "logic": lambda x, t: torch.where(torch.logical_and(torch.ge(x, 0.0), torch.logical_not(torch.le(t, 0.0))), x, t),
    "bounds": lambda x, t: torch.clamp(torch.clamp(x, max=0.5), -0.25),
    "powers": lambda x, t: torch.pow(torch.abs(x), 3) + torch.sqrt(torch.abs(t)),
    "means": lambda x, t: torch.mean(x, [1, 2]) + torch.sum(x, (-1, -2)) + torch.amax(torch.amin(x, -1), 1),
    "kept dimensions": lambda x, t: x - torch.mean(x, -1, keepdim=True) + torch.logsumexp(x, 1, keepdim=True),
    "everything summed": lambda x, t: x * torch.sum(x),
    "parts": lambda x, t: torch.cat([torch.split(x, [1, 2], 1)[1] * 2, torch.split(x, 1, 1)[0]], 1),
    "chunks": lambda x, t: torch.stack([torch.chunk(x, 2, -1)[1], torch.chunk(x, 2, -1)[0]], -1),
    "slices": lambda x, t: x[:, 1:, ::2] + x[..., -1:][:, :2] + x[:, 0:1, 1:3],
    "places": lambda x, t: x[:, 2] + x[:, -1] + x.select(1, -2),
    "looked up": lambda x, t, places: torch.index_select(x, 1, places) + x[:, places],
    "turned": lambda x, t: torch.matmul(x, x.transpose(-1, -2)) + torch.movedim(x.permute(0, 2, 1), 1, 2)[:, :, :3],
    "table turned": lambda x, t: torch.matmul(x, t.t()),
    "expanded": lambda x, t: torch.cat([x, torch.unsqueeze(t, 0).expand(x.size(0), -1, -1)], 1),
    "merged with the batch": lambda x, t: functional.layer_norm(torch.flatten(x, 0, 1), [4]).unflatten(0, (-1, 3)),
    "batch times a number": lambda x, t: x.reshape(x.size(0) * 3, 4).reshape(-1, 3, 4),
    "padded": lambda x, t: functional.pad(x, [1, 2, 1, 0], "constant", 0.5) + functional.pad(x, [1, 2, 1, 0], "constant"),
    "edges": lambda x, t: functional.pad(x, [1, 2], "replicate") + functional.pad(x, [1, 2], "reflect"),
    "softmax of a middle dimension": lambda x, t: functional.softmax(x, 1) + functional.log_softmax(x, -1),
    "triangle": lambda x, t: torch.triu(torch.matmul(x, t.t()), 1) + torch.tril(torch.matmul(x, t.t()), -1),
    "einsum": lambda x, t: torch.einsum("bij,kj->bik", x, t),
    "repeated": lambda x, t: torch.squeeze(torch.unsqueeze(x.repeat(1, 2, 1), 1), [1, 2]).unsqueeze(-1),
    "an input as output": lambda x, t: (x, x + t, x),
}


def traced(name: str) -> fx.GraphModule:
    module = nn.Module()
    module.table = nn.Parameter(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))
    graph = fx.Graph()
    tracer = fx.proxy.GraphAppendingTracer(graph)
    module.register_buffer("places", torch.tensor([2, 0]))
    nodes = [graph.placeholder("x"), *map(graph.get_attr, ("table", "places") if name == "looked up" else ("table",))]
    result = CALLS[name](*(fx.Proxy(node, tracer) for node in nodes))
    graph.output(fx.node.map_aggregate(result, lambda item: item.node if isinstance(item, fx.Proxy) else item))
    return fx.GraphModule(module, graph).eval()


@pytest.mark.parametrize("name", sorted(CALLS))
def test_functions_are_written_in_all_their_forms(name: str, tmp_path: Path) -> None:
    module = traced(name)
    example = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(3))
    made = outputs(module, (example,))
    specs = tuple(TensorSpec(f"y{place}", (None, *item.shape[1:])) for place, item in enumerate(made))
    model = saved(module, Signature((TensorSpec("x", (None, 3, 4)),), specs), tmp_path / "out.onnx")
    assert model is not None
    assert [item.name for item in model.graph.output] == [spec.name for spec in specs]
    for batch in (1, 2, 6):
        inputs = (torch.randn(batch, 3, 4, generator=torch.Generator().manual_seed(batch)),)
        for want, got in zip(outputs(module, inputs), runtime_outputs(tmp_path / "out.onnx", inputs), strict=True):
            np.testing.assert_allclose(got, want.numpy(), atol=1e-5, rtol=1e-5)


def test_what_is_written_wrong_is_left_to_the_exporter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module answers for the file: a rule that writes something else does not get through."""
    graph = fx.Graph()
    graph.output(graph.call_function(torch.add, (graph.placeholder("x"), 1.0)))
    module = fx.GraphModule(nn.Module(), graph)
    signature = Signature((TensorSpec("x", (None, 3)),), (TensorSpec("y", (None, 3)),))
    monkeypatch.setitem(write._FUNCTIONS, torch.add, lambda writer, args, kwargs: writer.emit("Relu", args[0].name))  # type: ignore[arg-type]
    export_module.export_onnx(module, signature, tmp_path / "out.onnx")
    x = torch.tensor([[-1.0, 0.0, 2.0]])
    np.testing.assert_allclose(runtime_outputs(tmp_path / "out.onnx", (x,))[0], (x + 1).numpy())
