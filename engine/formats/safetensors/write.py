"""Writes a network's weights as safetensors.

The file holds the module's state dict under the module's own names, every name once (tied tensors under each of theirs). How the
tensors are connected is not in it. A network that still has the shape of a builtin architecture says so in the file's metadata
(`modelpress.architecture`), and loads by itself; any other loads strictly into the module of the job's ONNX file, whose layers have
the same names.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

import engine
from engine.architectures.build import build_architecture
from engine.formats.onnx.export import folded
from engine.networks.network import Network


def write(network: Network, path: Path) -> None:
    """Write the weights, masks and parametrizations folded in, with version, signature and architecture as metadata.

    Raises SafetensorError where the file cannot be written, and the errors of `Network.module` where there is none.
    """
    module = folded(network.module)
    metadata = {
        "format": "pt",
        "modelpress.version": engine.__version__,
        "modelpress.signature": json.dumps(network.signature.to_json()),
    }
    architecture = _architecture_of(network.module, module)
    if architecture is not None:
        metadata["modelpress.architecture"] = json.dumps(architecture)
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in module.state_dict().items()}
    save_file(tensors, str(path), metadata)


def _architecture_of(original: nn.Module, module: nn.Module) -> Any:
    """The builtin architecture that the module was made as, if its tensors still have that shape."""
    stated = getattr(original, "architecture", None)
    if stated is None:
        return None
    with torch.device("meta"):
        fresh, _ = build_architecture(stated)
    same = {name: tensor.shape for name, tensor in fresh.state_dict().items()} == {
        name: tensor.shape for name, tensor in module.state_dict().items()
    }
    return stated if same else None
