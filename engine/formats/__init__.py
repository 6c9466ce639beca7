"""Networks in and out of files, a folder a format. Importing this package loads neither torch nor numpy."""

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
