"""Writes the networks of `networks` as ONNX the way their owners would."""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path

import torch
from torch import nn

from tests.engine.formats.onnx.networks import Case


def export(
    module: nn.Module,
    case: Case,
    path: Path,
    *,
    exporter: str,
    dynamic: bool = True,
    batch: int = 2,
    opset: int | None = None,
    keep_norms: bool = False,
) -> Path:
    """Export by torch's current (`dynamo`) or legacy exporter, with an open or a fixed batch."""
    inputs = case.inputs(batch)
    names = [f"in{index}" for index in range(len(inputs))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            if exporter == "dynamo":
                shapes = tuple({0: torch.export.Dim("batch")} for _ in inputs) if dynamic else None
                program = torch.onnx.export(
                    module, inputs, input_names=names, dynamic_shapes=shapes, dynamo=True, verbose=False, opset_version=opset
                )
                program.save(str(path))
            else:
                buffer = io.BytesIO()
                axes = {name: {0: "batch"} for name in names} if dynamic else None
                # Normalizations are kept in the file, with their running statistics, instead of being folded into convolutions.
                mode = torch.onnx.TrainingMode.PRESERVE if keep_norms else torch.onnx.TrainingMode.EVAL
                torch.onnx.export(
                    module.eval(),
                    inputs,
                    buffer,
                    input_names=names,
                    dynamic_axes=axes,
                    dynamo=False,
                    opset_version=opset,
                    training=mode,
                    do_constant_folding=not keep_norms,
                )
                path.write_bytes(buffer.getvalue())
        finally:
            logging.disable(logging.NOTSET)
            module.eval()
    return path
