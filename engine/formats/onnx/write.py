"""Publishes a network as ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.networks.network import Network


def write(network: Network, path: Path) -> Sequence[Path]:
    """Write the network as one ONNX file. Raises `export_failed`."""
    network.write_onnx(path)
    return (path,)
