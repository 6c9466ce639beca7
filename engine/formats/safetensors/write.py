"""Writes a network as safetensors that this service, and any reader of safetensors, loads again.

The file holds the weights under their own names, every name once (tied tensors under each of theirs); of a graph it holds the constants:
8-bit weights, scales and zero points. Its metadata says how they are connected: a network that still is a builtin architecture names it
(`modelpress.architecture`), any other is described (`engine.formats.safetensors.description`).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

import engine
from engine.contract import limits
from engine.files.safetensors import ARCHITECTURE, GRAPH, PROGRAM
from engine.formats.onnx.networks import array_of
from engine.formats.pt2.export import unsupported
from engine.formats.safetensors import description
from engine.formats.safetensors.header import sort_metadata
from engine.formats.safetensors.read import SIGNATURE
from engine.networks.example_inputs import fitting_inputs
from engine.networks.network import Network

_TOLERANCE = 1e-5


def write(network: Network, path: Path, *, unchanged: bool | None = None) -> Sequence[Path]:
    """Write the weights, with version, signature and what they are as metadata.

    `unchanged` is what `still_is` returned to a caller that has asked already: it writes and reads all weights.
    Raises `export_unsupported` where that cannot be stated, SafetensorError where the file cannot be written.
    """
    tensors = {name: np.asarray(array, order="C") for name, array in network.tensors()}
    metadata = {"format": "pt", "modelpress.version": engine.__version__, SIGNATURE: json.dumps(network.signature.to_json())}
    first = network.at(network.settings[0])

    def of_graph(file: Path) -> tuple[str, str]:
        if len(network.settings) > 1:
            raise unsupported(f"it has {len(network.settings)} graphs, one for each setting", "Export ONNX, a file for each.")
        return GRAPH, description.graph(file)

    def of_module(_: torch.nn.Module) -> tuple[str, str]:
        if still_is(first, tensors) if unchanged is None else unchanged:
            return ARCHITECTURE, json.dumps(first.architecture)
        stated, constants = description.program(first)
        tensors.update({name: array_of(tensor) for name, tensor in constants.items()})
        return PROGRAM, json.dumps(stated, separators=(",", ":"))

    key, metadata_value = first.measure(on_file=of_graph, on_module=of_module)
    metadata[key] = metadata_value
    if len(metadata_value) > limits.MAX_HEADER_BYTES // 2:
        raise unsupported("the description of its operators is too large for the header of such a file", "Export ONNX or pt2.")
    save_file(tensors, path, metadata)
    sort_metadata(path)
    return (path,)


def still_is(network: Network, tensors: Mapping[str, NDArray[Any]]) -> bool:
    """Whether the architecture that a plain network was made as, with the tensors, computes the same as it."""
    if network.architecture is None:
        return False
    from engine.architectures.build import build_architecture
    from engine.contract.metadata import ModelMetadata
    from engine.formats.safetensors.read import read

    with torch.device("meta"):
        fresh, _ = build_architecture(network.architecture)
    if {name: tuple(tensor.shape) for name, tensor in fresh.state_dict().items()} != {name: array.shape for name, array in tensors.items()}:
        return False
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_file(dict(tensors), path)
        again = read(path, ModelMetadata(architecture=network.architecture), Path(folder)).module
    inputs = fitting_inputs(network.module.eval(), network.signature, 2)
    with torch.no_grad():
        wanted, given = (item if isinstance(item, tuple) else (item,) for item in (network.module.eval()(*inputs), again.eval()(*inputs)))
    return len(wanted) == len(given) and all(
        one.shape == other.shape and torch.allclose(one.float(), other.float(), atol=_TOLERANCE, rtol=_TOLERANCE)
        for one, other in zip(wanted, given, strict=True)
    )
