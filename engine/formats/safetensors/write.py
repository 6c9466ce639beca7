"""Writes a network's weights as safetensors.

The file holds the weights under their own names, every name once (tied tensors under each of theirs); of a graph it holds the constants:
8-bit weights, scales and zero points. How the tensors are connected is not in it. A network that still has the shape of a builtin
architecture says so in the file's metadata (`modelpress.architecture`), and loads by itself; any other module loads strictly into the
module of the job's ONNX file, whose layers have the same names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

import engine
from engine.networks.network import Network


def write(network: Network, path: Path) -> Sequence[Path]:
    """Write the weights, with version, signature and architecture as metadata. Raises SafetensorError where the file cannot be written."""
    tensors = {name: np.asarray(array, order="C") for name, array in network.tensors()}
    metadata = {
        "format": "pt",
        "modelpress.version": engine.__version__,
        "modelpress.signature": json.dumps(network.signature.to_json()),
    }
    if _still_is(network.architecture, tensors):
        metadata["modelpress.architecture"] = json.dumps(network.architecture)
    save_file(tensors, path, metadata)
    return (path,)


def _still_is(architecture: Any, tensors: Mapping[str, NDArray[Any]]) -> bool:
    """Whether the tensors have the shapes of the architecture that the network was made as."""
    if architecture is None:
        return False
    import torch

    from engine.architectures.build import build_architecture

    with torch.device("meta"):
        fresh, _ = build_architecture(architecture)
    return {name: tuple(tensor.shape) for name, tensor in fresh.state_dict().items()} == {
        name: array.shape for name, array in tensors.items()
    }
