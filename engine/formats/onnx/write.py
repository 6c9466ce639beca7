"""Publishes a network as ONNX."""

from __future__ import annotations

from pathlib import Path

from engine.formats.onnx.export import export_onnx
from engine.networks.network import Network


def write(network: Network, path: Path) -> None:
    """Write the network as one ONNX file. Raises `export_failed`."""
    export_onnx(network, path)
