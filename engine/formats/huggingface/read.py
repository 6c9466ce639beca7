"""Reads folders of transformers and timm models: the network that their config describes, with the weights of the safetensors beside it."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import torch

from engine.architectures.spec import read_architecture
from engine.architectures.transformers.build import load
from engine.architectures.transformers.spec import TransformersParams
from engine.contract.errors import EngineError
from engine.contract.metadata import ModelMetadata
from engine.files.archive import DAMAGED, open_archive, printable
from engine.files.huggingface import HINT, INDEX, OWN, Folder, architecture_of, config_of, folder_of, is_described
from engine.files.magic import check_file
from engine.formats.lifted import as_network
from engine.formats.naming import renamed
from engine.formats.safetensors.read import read as read_weights
from engine.formats.safetensors.read import read_safetensors, signature_in
from engine.formats.state_dict.assign import network_of
from engine.networks.network import Network


def read(path: Path, metadata: ModelMetadata, work: Path) -> Network:
    """The network of the folder. Raises `architecture_invalid`, `model_invalid`, `unsafe_format`, `unsupported_operator`."""
    with path.open("rb") as stream:
        check_file(stream, "huggingface")
        with open_archive(stream) as archive:
            folder = folder_of(archive)
            config = config_of(archive, folder)
            stated = None
            if OWN in config:
                work.mkdir(parents=True, exist_ok=True)
                own = work / "own.safetensors"
                _extract(archive, next(iter(folder.weights.values())), own)
                if is_described(config):
                    return read_weights(own, ModelMetadata(), work)
                stated = signature_in(own)
                own.unlink()
            architecture = architecture_of(config, metadata.architecture)
            entry, params = read_architecture(architecture)
            if not isinstance(params, TransformersParams):
                found = network_of(architecture, lambda: _tensors(archive, folder, work))
                return found.with_module(found.module, signature=renamed(found.signature, stated))
            alone = work / "weights"
            _write(archive, folder, alone)
    module = load(params, alone)
    shutil.rmtree(alone)
    module.architecture = {"name": entry.name, "params": params.model_dump(mode="json")}  # type: ignore[assignment]  # torch takes attributes of a module for tensors and modules
    found = as_network(module, params.signature())
    return found.with_module(found.module, signature=renamed(found.signature, stated))


def _write(archive: zipfile.ZipFile, folder: Folder, target: Path) -> None:
    """The weights alone, each shard checked, and an index of them that is our own."""
    target.mkdir(parents=True)
    (target / "generation_config.json").write_text("{}")  # asked for by networks that generate
    places: dict[str, str] = {}
    for name, info in folder.weights.items():
        shard = target / name
        _extract(archive, info, shard)
        for tensor in read_safetensors(shard):
            if tensor in places:
                raise EngineError("model_invalid", f"The tensor {tensor!r} stands in two shards.", hint=HINT)
            places[tensor] = name
    if len(folder.weights) > 1:
        index = {"metadata": {"total_size": sum(info.file_size for info in folder.weights.values())}, "weight_map": places}
        (target / INDEX).write_text(json.dumps(index))
    elif "model.safetensors" not in folder.weights:
        (target / next(iter(folder.weights))).rename(target / "model.safetensors")


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, shard: Path) -> None:
    try:
        with archive.open(info) as source, shard.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    except DAMAGED as error:
        raise EngineError("model_invalid", f"{printable(info.filename)!r} is damaged in the archive.", hint=HINT) from error
    with shard.open("rb") as stream:
        check_file(stream, "safetensors")


def _tensors(archive: zipfile.ZipFile, folder: Folder, work: Path) -> dict[str, torch.Tensor]:
    """The tensors of all shards."""
    work.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, torch.Tensor] = {}
    for number, info in enumerate(folder.weights.values()):
        shard = work / f"shard-{number}.safetensors"
        _extract(archive, info, shard)
        found = read_safetensors(shard)
        if twice := sorted(found.keys() & tensors.keys()):
            raise EngineError("model_invalid", f"The tensor {twice[0]!r} stands in two shards.", hint=HINT)
        tensors |= found
        shard.unlink()
    return tensors
