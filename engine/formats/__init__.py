"""Networks in and out of files. Importing this package loads neither torch nor numpy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engine.contract.plugins import extended

if TYPE_CHECKING:
    from engine.contract.metadata import ModelMetadata
    from engine.networks.network import Network

__path__ = extended(__path__, __name__)


def load_network(path: Path, format: str, metadata: ModelMetadata, work: Path) -> Network:
    """A network from an uploaded file; see `engine.formats.loading`."""
    from engine.formats.loading import load_network as load

    return load(path, format, metadata, work)


def export_onnx(network: Network, path: Path) -> None:
    """Write a network as one ONNX file; see `engine.formats.onnx.export`."""
    from engine.formats.onnx.export import export_onnx as export

    export(network, path)


def export_safetensors(network: Network, path: Path) -> None:
    """Write a network's weights; see `engine.formats.safetensors.write`."""
    from engine.formats.safetensors.write import write

    write(network, path)
