"""Reads an uploaded file into a `Network`, by its format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.contract.errors import EngineError
from engine.files.description import FORMAT, Description, read_description
from engine.files.magic import MODEL_FORMATS
from engine.formats.onnx.file import is_quantized, narrowed, read_model, signature_of, stored_type
from engine.networks.network import Network

if TYPE_CHECKING:
    from torch import nn


def load_network(path: Path, format: str, metadata: dict[str, Any], work: Path) -> Network:
    """A network from an uploaded file.

    `format` is `onnx`, `safetensors`, `pt` or `architecture`; safetensors and `pt` hold weights only and need
    `metadata["architecture"]`, `architecture` is a description without weights, which are drawn.
    `metadata["input_specs"]` may fix dimensions that an ONNX file leaves open. `work` is a directory for scratch files. Raises
    `model_invalid`, `unsafe_format`, `unsupported_operator`, `shape_mismatch` and the codes of `engine.contract.limits`.
    """
    if format == "onnx":
        stated = metadata.get("input_specs") or ()
        model = narrowed(read_model(path), stated)
        quantized = is_quantized(model)
        build = None if quantized else lambda: _build(path, stated)
        return Network(signature_of(model), build_module=build, onnx_path=path, quantized=quantized, weights_type=stored_type(model))
    if format in ("safetensors", "pt"):
        from engine.formats.state_dict.read import load_weights

        return load_weights(path, format, metadata)
    if format == FORMAT:
        with path.open("rb") as file:
            return _drawn(read_description(file))
    raise EngineError("unsupported_format", f"Models of format {format!r} are not read.", hint=f"Formats: {', '.join(MODEL_FORMATS)}.")


def _drawn(description: Description) -> Network:
    """The network that a description stands for, the same one every time."""
    import torch

    from engine.architectures.build import build_architecture

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(description.seed)
        module, signature = build_architecture(description.architecture)
    return Network(signature, module=module.eval())


def _build(path: Path, stated: Sequence[Mapping[str, Any]]) -> nn.Module:
    """The trainable form, built from the file once more: quantizing a graph needs neither torch nor the weights in memory."""
    from engine.formats.onnx.importer.rebuild import build_module

    return build_module(narrowed(read_model(path), stated))
