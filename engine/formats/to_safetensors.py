"""Writes a network's weights as safetensors."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_model

import engine
from engine.formats.to_onnx import folded
from engine.network import Network


def export_safetensors(network: Network, path: Path) -> None:
    """Write the state dict of the network's module, masks folded in, under the module's own tensor names."""
    module = folded(network.module)
    metadata = {
        "format": "pt",
        "modelpress.version": engine.__version__,
        "modelpress.inputs": json.dumps([spec.name for spec in network.signature.inputs]),
    }
    save_model(module, str(path), metadata)
