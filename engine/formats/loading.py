"""Reads an uploaded file into a `Network`, by its format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.errors import EngineError
from engine.formats.from_onnx.rebuild import build_module
from engine.formats.onnx_file import is_quantized, read_model, signature_of
from engine.network import Network


def load_network(path: Path, format: str, metadata: dict[str, Any], work: Path) -> Network:
    """A network from an uploaded file.

    `format` is `onnx`, `safetensors` or `pt`; the last two hold weights only and need `metadata["architecture"]`. `work` is a
    directory for scratch files. Raises `model_invalid`, `unsafe_format`, `unsupported_operator` and the codes of `engine.limits`.
    """
    if format == "onnx":
        model = read_model(path)
        quantized = is_quantized(model)
        build = None if quantized else lambda: build_module(model)
        return Network(signature_of(model), build_module=build, onnx_path=path, quantized=quantized)
    raise EngineError("unsupported_format", f"Models of format {format!r} are not read.", hint="Upload onnx, safetensors or pt.")
