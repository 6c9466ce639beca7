"""Datasets of every format as splits of arrays. Importing this package loads no numpy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engine.contract.plugins import extended

if TYPE_CHECKING:
    from engine.contract.metadata import DatasetMetadata
    from engine.data.dataset import Data
    from engine.networks.network import Signature

__path__ = extended(__path__, __name__)


def load_dataset(path: Path, format: str, metadata: DatasetMetadata, signature: Signature, work: Path) -> Data:
    """A dataset made ready for a network with this signature; see `engine.data.loading`."""
    from engine.data.loading import load_dataset as load

    return load(path, format, metadata, signature, work)
