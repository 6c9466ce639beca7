"""Networks in and out of files. Importing this package loads neither torch nor numpy: the API reads `engine.files.magic`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.contract.plugins import extended

if TYPE_CHECKING:
    from engine.networks.network import Network

__path__ = extended(__path__, __name__)


def load_network(path: Path, format: str, metadata: dict[str, Any], work: Path) -> Network:
    """A network from an uploaded file; see `engine.formats.loading`."""
    from engine.formats.loading import load_network as load

    return load(path, format, metadata, work)


def export_onnx(network: Network, path: Path) -> None:
    """Write a network as one ONNX file; see `engine.formats.onnx.export`."""
    from engine.formats.onnx.export import export_onnx as export

    export(network, path)


def export_safetensors(network: Network, path: Path) -> None:
    """Write a network's weights; see `engine.formats.state_dict.write`."""
    from engine.formats.state_dict.write import export_safetensors as export

    export(network, path)
