"""Reads an ONNX file as a network whose trainable form is built on first use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.contract.metadata import InputSpec, ModelMetadata
from engine.formats.onnx.file import is_quantized, narrowed, read_model, signature_of, stored_type
from engine.formats.onnx.networks import GraphNetwork
from engine.networks.network import Network

if TYPE_CHECKING:
    from torch import nn


def read(path: Path, metadata: ModelMetadata, work: Path) -> Network:
    """The network of a graph; `metadata.input_specs` may fix dimensions that the file leaves open.

    Raises `model_invalid`, `external_data_forbidden`, `unsupported_operator`, `shape_mismatch` and the codes of `engine.contract.limits`.
    """
    model = narrowed(read_model(path), metadata.input_specs)
    build = None if is_quantized(model) else lambda: _build(path, metadata.input_specs)
    return GraphNetwork(signature_of(model), path, build_module=build, weights_type=stored_type(model))


def _build(path: Path, stated: Sequence[InputSpec]) -> nn.Module:
    """The trainable form, built from the file once more: quantizing a graph needs neither torch nor the weights in memory."""
    from engine.formats.onnx.importer.rebuild import build_module
    from engine.formats.onnx.packed import unpacked

    return build_module(unpacked(narrowed(read_model(path), stated)))
