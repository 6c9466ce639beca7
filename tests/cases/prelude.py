"""What the builders of cases share: small networks whose labels are their own answers.

A builder is a script that is run with `begin(folder)` in force: it writes models, data and the specs of its jobs there. Its names are
short because a builder reads like the network that it builds.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import TensorProto as T
from onnx import helper as H
from onnx import numpy_helper as N
from torch import nn
from torch.nn import functional as F

__all__ = [
    "DYNAMIC",
    "OUT",
    "PRUNE",
    "SAME",
    "STATIC",
    "F",
    "H",
    "N",
    "T",
    "build",
    "data",
    "export",
    "job",
    "kill",
    "nn",
    "np",
    "onnx",
    "ort",
    "rng",
    "spread",
    "torch",
]


class _Folder:
    """The folder of the case that is being built."""

    path = Path()
    jobs: list[dict[str, str]] = []

    def __truediv__(self, name: str) -> Path:
        return self.path / name


class _Random:
    """A generator that every case starts anew."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.generator, name)


OUT, rng = _Folder(), _Random()
PRUNE = {"method": "structured_pruning", "pruning_ratio": 0.5}
STATIC, DYNAMIC = {"method": "static_quantization"}, {"method": "dynamic_quantization"}
SAME = {"method": "train", "iterations": 0}
"""Imports and exports, changes nothing."""


@contextmanager
def begin(folder: Path) -> Iterator[list[dict[str, str]]]:
    """Build a case in `folder`, from the same random numbers every time; gives the list that its jobs come to stand in."""
    OUT.path, OUT.jobs, rng.generator = folder, [], np.random.default_rng(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield OUT.jobs


def export(
    net: nn.Module,
    x: Any,
    name: str = "model.onnx",
    opset: int = 17,
    names: Sequence[str] = ("x",),
    outputs: Sequence[str] = ("y",),
    dynamic: bool = True,
    **kw: Any,
) -> None:
    """Write a module as ONNX, with an open batch where `dynamic`."""
    axes = {name: {0: "n"} for name in (*names, *outputs)} if dynamic else None
    torch.onnx.export(
        net.eval(),
        x if isinstance(x, tuple) else (x,),
        str(OUT / name),
        dynamo=False,
        opset_version=opset,
        input_names=list(names),
        output_names=list(outputs),
        dynamic_axes=axes,
        **kw,
    )


def build(
    nodes: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    weights: dict[str, Any],
    name: str = "model.onnx",
    opset: int = 17,
    ir: int = 8,
    check: bool = True,
    **kw: Any,
) -> onnx.ModelProto:
    """Write a graph of these nodes; inputs and outputs are (name, type, shape)."""
    before, after = ([H.make_tensor_value_info(*side) for side in sides] for sides in (inputs, outputs))
    graph = H.make_graph(nodes, "g", before, after, [N.from_array(np.asarray(value), key) for key, value in weights.items()], **kw)
    model = H.make_model(graph, opset_imports=[H.make_opsetid("", opset)], ir_version=ir)
    if check:
        onnx.checker.check_model(model)
    onnx.save(model, OUT / name)
    return model


def data(
    shape: Sequence[int],
    train: int = 64,
    test: int = 32,
    scale: float = 1.0,
    model: str = "model.onnx",
    name: str = "data.npz",
    labels: bool = True,
    draw: Callable[[int], NDArray[Any]] | None = None,
    **over: NDArray[Any],
) -> None:
    """Write examples, labelled with the class that the model itself gives them."""
    session = ort.InferenceSession(str(OUT / model), providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    arrays: dict[str, NDArray[Any]] = {}
    for split, count in (("train", train), ("test", test)):
        x = draw(count) if draw else (rng.standard_normal((count, *shape)) * scale).astype(np.float32)
        arrays["x_" + split] = x
        if labels:
            step = given.shape[0] if isinstance(given.shape[0], int) else count
            batches = [np.resize(x[start : start + step], (step, *x.shape[1:])) for start in range(0, count, step)]
            y = np.concatenate([session.run(None, {given.name: batch})[0] for batch in batches])[:count]
            arrays["y_" + split] = y.reshape(count, y.shape[1], -1)[:, :, 0].argmax(1)
    np.savez(OUT / name, **{**arrays, **over})


def job(tag: str, *steps: dict[str, Any], model: str = "model.onnx", data: str = "data.npz", **spec: Any) -> None:
    """One job of the case: its steps, and what else its spec says."""
    (OUT / f"{tag}.json").write_text(json.dumps({"steps": list(steps), **spec}))
    OUT.jobs.append({"tag": tag, "spec": f"{tag}.json", "model": model, "data": data})


def kill(layer: nn.Module, dead: Any) -> None:
    """Make output channels of a layer carry exactly zero, so that removing them may change nothing."""
    with torch.no_grad():
        for parameter in layer.parameters(recurse=False):
            parameter[dead] = 0


def spread(net: nn.Module) -> None:
    """Give fresh batch normalizations statistics that are not trivial."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            with torch.no_grad():
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
