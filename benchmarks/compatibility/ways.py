"""How a network leaves torch."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from benchmarks.compatibility.networks import Inputs


def onnx_new(module: nn.Module, inputs: Inputs, path: Path) -> str:
    shapes = tuple({0: torch.export.Dim("batch")} for _ in inputs)
    torch.onnx.export(module, inputs, str(path), dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False)
    return "onnx"


def onnx_old(module: nn.Module, inputs: Inputs, path: Path) -> str:
    names = [f"x{place}" for place in range(len(inputs))]
    torch.onnx.export(module, inputs, str(path), dynamo=False, input_names=names, dynamic_axes={name: {0: "n"} for name in names})
    return "onnx"


def pt2(module: nn.Module, inputs: Inputs, path: Path) -> str:
    torch.export.save(torch.export.export(module, inputs, dynamic_shapes=tuple({0: torch.export.Dim("batch")} for _ in inputs)), path)
    return "pt2"


WAYS = {"ONNX (new exporter)": onnx_new, "ONNX (old exporter)": onnx_old, "pt2": pt2}
