"""Small good files of every format, made in memory."""

from __future__ import annotations

import functools
import io
import warnings
import zipfile
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch
from torch import nn

from tests.engine.formats.onnx.graphs import BATCH, model, node, normal


def onnx_file() -> bytes:
    nodes = [
        node("Conv", ["x", "conv.weight", "conv.bias"], ["c"], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"]),
        node("Reshape", ["r", "shape"], ["f"]),
        node("Gemm", ["f", "fc.weight", "fc.bias"], ["y"], transB=1),
    ]
    constants = {
        "conv.weight": normal(4, 1, 3, 3),
        "conv.bias": normal(4),
        "shape": np.array([-1, 64], dtype=np.int64),
        "fc.weight": normal(3, 64),
        "fc.bias": normal(3),
    }
    return model(nodes, {"x": [BATCH, 1, 4, 4]}, ["y"], constants).SerializeToString()


def lenet() -> nn.Sequential:
    """The builtin `lenet_300_100` with image_size 8, hidden (6, 4) and three classes."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))


LENET = {"architecture": {"name": "lenet_300_100", "params": {"image_size": 8, "hidden": [6, 4], "num_classes": 3}}}


def safetensors_file() -> bytes:
    return safetensors.torch.save(lenet().state_dict())


def torch_file(content: Any = None) -> bytes:
    buffer = io.BytesIO()
    torch.save(lenet().state_dict() if content is None else content, buffer)
    return buffer.getvalue()


@functools.cache
def program_file() -> bytes:
    """`lenet()` as an exported program."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(lenet(), (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: torch.export.Dim("batch")},))
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
    return buffer.getvalue()


def npz_file(arrays: dict[str, Any] | None = None, *, compressed: bool = False) -> bytes:
    rng = np.random.default_rng(0)
    arrays = arrays or {
        "x_train": rng.integers(0, 256, (12, 8, 8), dtype=np.uint8),
        "y_train": np.arange(12, dtype=np.uint8) % 3,
        "x_test": rng.integers(0, 256, (6, 8, 8), dtype=np.uint8),
        "y_test": np.arange(6) % 3,
    }
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def zip_file(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def parquet_file() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"a": [0.5, 1.5, 2.5], "y": [0, 1, 0]}), buffer)
    return buffer.getvalue()


GOOD = {
    "onnx": onnx_file,
    "safetensors": safetensors_file,
    "pt": torch_file,
    "pt2": program_file,
    "npz": npz_file,
    "parquet": parquet_file,
    "jsonl": lambda: b'{"text": "a"}\n{"text": "b"}\n',
}
