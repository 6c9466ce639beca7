"""Small ONNX files and datasets for tests of quantization, verification and whole jobs; made without torch's exporter."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from tests.engine.conftest import CLASSES, cnn, make_split

IMAGE = (1, 8, 8)


def save(path: Path, nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], inputs: Any, outputs: Any, opset: int = 17) -> Path:
    """Write a checked graph. `inputs` and `outputs` map names to shapes, or to (type, shape)."""

    def infos(described: dict[str, Any]) -> list[onnx.ValueInfoProto]:
        pairs = {name: item if isinstance(item, tuple) else (TensorProto.FLOAT, item) for name, item in described.items()}
        return [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in pairs.items()]

    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "small", infos(inputs), infos(outputs), initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def trained_cnn(seed: int = 0) -> nn.Module:
    """A CNN with batch normalization that has learned the toy images."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = cnn()
        split = make_split(600, 1)
        images, labels = torch.from_numpy(split.images), torch.from_numpy(split.labels)
        optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
        for _ in range(40):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(images), labels).backward()
            optimizer.step()
    return module.eval()


def cnn_file(path: Path, module: nn.Module | None = None) -> Path:
    """`cnn()` as exporters write it in training mode: convolution, BatchNormalization, and so on."""
    state = {name: value.detach().numpy() for name, value in (module or trained_cnn()).state_dict().items()}
    weights = {f"{name}": value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    nodes = [
        helper.make_node("Conv", ["x", "0.weight", "0.bias"], ["conv0"], "conv0", pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("BatchNormalization", ["conv0", "1.weight", "1.bias", "1.running_mean", "1.running_var"], ["norm"], "norm"),
        helper.make_node("Relu", ["norm"], ["relu0"], "relu0"),
        helper.make_node("MaxPool", ["relu0"], ["pool"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["pool", "4.weight", "4.bias"], ["conv1"], "conv1", pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["conv1"], ["relu1"], "relu1"),
        helper.make_node("Flatten", ["relu1"], ["flat"], "flat"),
        helper.make_node("Gemm", ["flat", "7.weight", "7.bias"], ["y"], "head", transB=1),
    ]
    return save(path, nodes, weights, {"x": ["batch", *IMAGE]}, {"y": ["batch", CLASSES]})


def dataset_file(path: Path, *, labels: bool = True, splits: Sequence[str] = ("train", "test"), test: int = 200) -> Path:
    """The toy images as an npz dataset."""
    counts = {"train": (300, 1), "validation": (100, 3), "test": (test, 2)}
    arrays: dict[str, np.ndarray] = {}
    for name in splits:
        split = make_split(*counts[name])
        arrays[f"x_{name}"] = split.images
        if labels and split.labels is not None:
            arrays[f"y_{name}"] = split.labels
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def write_job(directory: Path, spec: dict[str, Any] | None, **fields: Any) -> Path:
    """A job directory with its `job.json`; `model` and `dataset` are files."""
    directory.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {"kind": "compress", "job_id": "job_test", "threads": 1, "device": "cpu", "spec": spec, "teachers": {}}
    for role, prefix in (("model", "mdl_a"), ("dataset", "ds_a")):
        file = fields.pop(role, None)
        formats = {".pt2": "pt2", ".onnx": "onnx", ".safetensors": "safetensors", ".npz": "npz"}
        document[role] = file and {
            "id": prefix,
            "path": str(file),
            "format": formats[file.suffix],
            "metadata": fields.pop(f"{role}_metadata", {}),
        }
    if spec is not None:
        document["spec"] = {"model": "mdl_a", **({"dataset": "ds_a"} if document["dataset"] else {}), **spec}
    (directory / "job.json").write_text(json.dumps(document | fields))
    return directory
