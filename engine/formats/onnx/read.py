"""Reads an ONNX file as a network whose trainable form is built on first use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.contract.metadata import InputSpec, ModelMetadata
from engine.formats.onnx.executed import decides_by_input
from engine.formats.onnx.file import is_quantized, narrowed, read_model, signature_of, stored_type
from engine.formats.onnx.networks import GraphNetwork
from engine.networks.network import Network
from engine.process.memory import give_back_memory

if TYPE_CHECKING:
    from torch import nn

_LARGE_FILE_BYTES = 2**24


def read(path: Path, metadata: ModelMetadata, work: Path) -> Network:
    """The network of a graph; `metadata.input_specs` may fix dimensions that the file leaves open.

    Raises `model_invalid`, `external_data_forbidden`, `unsupported_operator`, `shape_mismatch` and the codes of `engine.contract.limits`.
    """
    model = narrowed(read_model(path), metadata.input_specs)
    build = None if is_quantized(model) else lambda: _build(path, metadata.input_specs)
    network = GraphNetwork(
        signature_of(model), path, build_module=build, weights_type=stored_type(model), input_dependent=decides_by_input(model)
    )
    del model
    _give_back(path)
    return network


def _build(path: Path, stated: Sequence[InputSpec]) -> nn.Module:
    """The trainable form, built from the file once more: quantizing a graph needs neither torch nor the weights in memory."""
    from engine.formats.onnx.importer.making import without_weights
    from engine.formats.onnx.importer.rebuild import build_module
    from engine.formats.onnx.packed import unpacked

    graph, weights = without_weights(unpacked(narrowed(read_model(path), stated)))
    _give_back(path)
    module = build_module(graph, weights)
    del weights
    _give_back(path)
    return module


def _give_back(path: Path) -> None:
    """Return the memory of a large file that was read and dropped."""
    if path.stat().st_size > _LARGE_FILE_BYTES:
        give_back_memory()
