"""Writes a network as a program of `torch.export`, which this service and `torch.export.load` read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.formats.pt2.export import save
from engine.networks.network import Network


def write(network: Network, path: Path) -> Sequence[Path]:
    """Write the program with its weights and without example inputs. Raises `export_unsupported`."""
    save(network, path)
    return (path,)
