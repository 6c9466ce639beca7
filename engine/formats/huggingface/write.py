"""Writes a network as the folder that transformers and timm load, in a zip: `config.json`, `model.safetensors` and a model card.

A network that still is one of these libraries' is described in the library's own words. Any other (pruned, builtin, imported) is described
in the metadata of its weights, which this service reads; the card says which of the two it is.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import JsonValue

import engine
from engine.architectures.spec import read_architecture
from engine.architectures.timm.spec import TimmParams
from engine.architectures.transformers.spec import TransformersParams
from engine.contract.json import JsonObject
from engine.files.huggingface import CONFIG, DESCRIBED, OWN, PARAMS, WEIGHTS
from engine.formats.huggingface.card import card
from engine.formats.safetensors.write import still_is
from engine.formats.safetensors.write import write as write_safetensors
from engine.networks.network import Network

_EPOCH = (1980, 1, 1, 0, 0, 0)


def write(network: Network, path: Path) -> Sequence[Path]:
    """Write the zip. Raises `export_unsupported` where the network's structure cannot be stated."""
    unchanged = still_is(network, {name: np.asarray(array, order="C") for name, array in network.tensors()})
    library, config = _config(network, unchanged=unchanged)
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path, "w") as archive:
        weights = Path(folder) / WEIGHTS
        write_safetensors(network, weights, unchanged=unchanged)
        content = {CONFIG: json.dumps(config, indent=1, sort_keys=True), "README.md": card(network, library, path.name)}
        for name, text in content.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), text)
        with weights.open("rb") as source, archive.open(zipfile.ZipInfo(WEIGHTS, _EPOCH), "w", force_zip64=True) as target:
            while piece := source.read(1 << 20):
                target.write(piece)
    return (path,)


def _config(network: Network, *, unchanged: bool) -> tuple[str | None, JsonObject]:
    """The library that loads the folder, and its config; of any other network what this service says of it."""
    architecture: Any = network.architecture
    own: JsonObject = {"version": engine.__version__}
    if not unchanged:
        return None, {OWN: {**own, DESCRIBED: True}}
    _, params = read_architecture(architecture)
    if isinstance(params, TransformersParams):
        config: JsonObject = {
            **params.config,
            "model_type": params.model,
            "architectures": [params.head],
            OWN: {**own, PARAMS: {"length": params.length}},
        }
        return "transformers", config
    if isinstance(params, TimmParams):
        size: list[JsonValue] = [params.in_channels, params.image_size, params.image_size]
        return "timm", {"architecture": params.model, "num_classes": params.num_classes, "pretrained_cfg": {"input_size": size}, OWN: own}
    return None, {OWN: {**own, "architecture": architecture}}
