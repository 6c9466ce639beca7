"""Reads state dicts of `torch.save` into a builtin architecture; nothing else of such a file is ever unpickled."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from engine.contract.errors import EngineError
from engine.contract.metadata import ModelMetadata
from engine.files.magic import check_file
from engine.files.pt import SAVE_HINT
from engine.formats.state_dict.assign import check_name, network_of
from engine.networks.network import Network

_WRAPPERS = ("state_dict", "model_state_dict", "model")


def read(path: Path, metadata: ModelMetadata, work: Path) -> Network:
    """The network of `metadata.architecture` with the file's weights.

    Raises `architecture_invalid`, `unsafe_format`, `model_invalid`, `non_finite_weights` and the codes of `engine.contract.limits`.
    """
    with path.open("rb") as stream:
        check_file(stream, "pt")
    return network_of(metadata.architecture, lambda: read_torch(path))


def read_torch(path: Path) -> dict[str, torch.Tensor]:
    """The state dict of a file from `torch.save`, read with weights_only=True and never otherwise.

    Raises `unsafe_format`, `model_invalid` and the codes of `engine.contract.limits`.
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise EngineError("unsafe_format", "The file holds more than weights.", hint=SAVE_HINT) from error
        raise EngineError("model_invalid", "The weights file is damaged.", hint="Write it again and upload it.") from error
    for key in _WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and type(item) in (torch.Tensor, nn.Parameter) for name, item in loaded.items()
    ):
        raise EngineError("model_invalid", "The file is not a state dict (names to tensors).", hint=SAVE_HINT)
    for name, tensor in loaded.items():
        check_name(name)
        if tensor.layout is not torch.strided or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise EngineError("tensor_limit_exceeded", f"Tensor {name!r} claims more elements than the file stores.")
    return {name: tensor.detach().contiguous() for name, tensor in loaded.items()}
