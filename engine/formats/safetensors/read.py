"""Reads safetensors files, dense or sparse, into a builtin architecture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from engine.contract import limits
from engine.contract.errors import EngineError
from engine.contract.metadata import ModelMetadata, NamedArchitecture
from engine.files.magic import check_file
from engine.files.safetensors import ARCHITECTURE, GRAPH, PROGRAM
from engine.formats.naming import renamed
from engine.formats.safetensors import description
from engine.formats.sparse import FORMAT, decode_sparse
from engine.formats.state_dict.assign import check_name, network_of
from engine.networks.network import Network

SIGNATURE = "modelpress.signature"
"""Key of the metadata for the names, shapes and types of inputs and outputs."""


def read(path: Path, metadata: ModelMetadata, work: Path) -> Network:
    """The network of `metadata.architecture` with the file's weights. A file that this service wrote says itself what it is.

    Raises `architecture_invalid`, `model_invalid`, `non_finite_weights` and the codes of `engine.contract.limits`.
    """
    with path.open("rb") as stream:
        check_file(stream, "safetensors")
    own = _own_metadata(path)
    if description.described(own):
        tensors = read_safetensors(path)
        if PROGRAM in own:
            return description.of_program(own[PROGRAM], tensors, own.get(SIGNATURE))
        return description.of_graph(own[GRAPH], tensors, work)
    network = network_of(metadata.architecture or _own_architecture(path), lambda: read_safetensors(path))
    return network.with_module(network.module, signature=renamed(network.signature, own.get(SIGNATURE)))


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file, those of a sparse one as they were. Raises `model_invalid` and the codes of `engine.contract.limits`."""
    from safetensors import SafetensorError, safe_open

    _check_header(path)
    try:
        with safe_open(str(path), "pt") as file:
            tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise EngineError(
            "model_invalid", f"The safetensors file is damaged: {str(error)[:200]}.", hint="Write it again and upload it."
        ) from error
    return decode_sparse(tensors, metadata) if metadata.get("format") == FORMAT else tensors


def _own_architecture(path: Path) -> NamedArchitecture | None:
    """What the file itself says to be the weights of, where this service wrote it."""
    try:
        stated = json.loads(_own_metadata(path).get(ARCHITECTURE, "null"))
        return ModelMetadata(architecture=stated).architecture
    except (ValueError, RecursionError, AttributeError, TypeError):
        return None


def signature_in(path: Path) -> str | None:
    """The signature that a file states, as `Signature.to_json` wrote it."""
    return _own_metadata(path).get(SIGNATURE)


def _own_metadata(path: Path) -> dict[str, str]:
    stated = _read_header(path).get("__metadata__", {})
    return {key: value for key, value in stated.items() if isinstance(value, str)} if isinstance(stated, dict) else {}


def _check_header(path: Path) -> None:
    """Limits and names of the header."""
    header = _read_header(path)
    if len(header) > limits.MAX_TENSORS:
        raise EngineError("tensor_limit_exceeded", f"The file has {len(header)} tensors, the limit is {limits.MAX_TENSORS}.")
    for name in header:
        check_name(name)


def _read_header(path: Path) -> dict[str, Any]:
    """What the library accepts although it should not: odd names, names twice, sizes that no data stands behind."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if len(set(keys)) < len(keys):
            raise EngineError("model_invalid", "The safetensors header holds a name twice.")
        return dict(pairs)

    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(length), object_pairs_hook=unique)
        except (ValueError, RecursionError) as error:
            raise EngineError("model_invalid", "The safetensors header is not JSON.") from error
    if not isinstance(header, dict):
        raise EngineError("model_invalid", "The safetensors header is not an object.")
    return header
