"""Draws the network that a description without weights stands for."""

from __future__ import annotations

from pathlib import Path

from engine.contract.metadata import ModelMetadata
from engine.files.architecture import read_description
from engine.formats.lifted import as_network
from engine.networks.network import Network


def read(path: Path, metadata: ModelMetadata, work: Path) -> Network:
    """The network of the description, the same one every time. Raises `architecture_invalid`."""
    import torch

    from engine.architectures.build import build_architecture

    with path.open("rb") as file:
        description = read_description(file)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(description.seed)
        module, signature = build_architecture(description.architecture)
    return as_network(module, signature)
