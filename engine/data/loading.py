"""Reads an uploaded dataset, by its format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.contract.errors import EngineError
from engine.data.dataset import Data
from engine.data.npz import load_npz
from engine.networks.network import Signature


def load_dataset(path: Path, format: str, metadata: dict[str, Any], signature: Signature, work: Path) -> Data:
    """A dataset made ready for a network with this signature.

    `work` takes arrays that have to be inflated. Raises `dataset_invalid`, `unsafe_format`,
    `shape_mismatch` (examples that do not fit the network's inputs) and `decompression_limit_exceeded`.
    """
    if format != "npz":
        raise EngineError("unsupported_format", f"Datasets of format {format!r} are not read.", hint="Upload an npz file.")
    return load_npz(path, metadata, signature, work)
