"""Reads files that hold weights only, safetensors and `.pt`, into a builtin architecture."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.architectures.build import build_architecture
from engine.contract import limits
from engine.contract.errors import EngineError
from engine.files import torch_archive
from engine.files.magic import check_file
from engine.formats.sparse import FORMAT, decode_sparse
from engine.networks.network import Network

_NAME = re.compile(limits.TENSOR_NAME)
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_LISTED = 8


def load_weights(path: Path, format: str, metadata: Mapping[str, Any]) -> Network:
    """The network of `metadata["architecture"]` with the file's weights, strictly: every tensor, no other, of the same shape.

    A safetensors file that this service wrote may name its architecture itself.

    Raises `architecture_invalid`, `model_invalid`, `unsafe_format`, `non_finite_weights` and the codes of `engine.contract.limits`.
    """
    with path.open("rb") as stream:
        check_file(stream, format)
    stated = metadata.get("architecture") or (_own_architecture(path) if format == "safetensors" else None)
    with torch.device("meta"):
        module, signature = build_architecture(stated)
    tensors = read_safetensors(path) if format == "safetensors" else read_torch(path)
    _assign(module, tensors)
    return Network(signature, module=module.eval())


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file, those of a sparse one as they were. Raises `model_invalid` and the codes of `engine.contract.limits`."""
    from safetensors import SafetensorError, safe_open

    _check_header(path)
    try:
        with safe_open(str(path), "pt") as file:
            tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise EngineError(
            "model_invalid", f"The safetensors file is damaged: {str(error)[:200]}.", hint="Write it again and upload it."
        ) from error
    return decode_sparse(tensors, metadata) if metadata.get("format") == FORMAT else tensors


def read_torch(path: Path) -> dict[str, torch.Tensor]:
    """The state dict of a file from `torch.save`, read with weights_only=True and never otherwise.

    Raises `unsafe_format`, `model_invalid` and the codes of `engine.contract.limits`.
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise EngineError("unsafe_format", "The file holds more than weights.", hint=torch_archive.SAVE_HINT) from error
        raise EngineError("model_invalid", "The weights file is damaged.", hint="Write it again and upload it.") from error
    for key in _WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and type(item) in (torch.Tensor, nn.Parameter) for name, item in loaded.items()
    ):
        raise EngineError("model_invalid", "The file is not a state dict (names to tensors).", hint=torch_archive.SAVE_HINT)
    for name, tensor in loaded.items():
        _check_name(name)
        if tensor.layout is not torch.strided or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise EngineError("tensor_limit_exceeded", f"Tensor {name!r} claims more elements than the file stores.")
    return {name: tensor.detach().contiguous() for name, tensor in loaded.items()}


def _own_architecture(path: Path) -> Any:
    """What the file itself says to be the weights of, where this service wrote it."""
    try:
        return json.loads(_read_header(path).get("__metadata__", {}).get("modelpress.architecture", "null"))
    except (ValueError, RecursionError, AttributeError, TypeError):
        return None


def _check_header(path: Path) -> None:
    """Limits and names of the header."""
    header = _read_header(path)
    if len(header) > limits.MAX_TENSORS:
        raise EngineError("tensor_limit_exceeded", f"The file has {len(header)} tensors, the limit is {limits.MAX_TENSORS}.")
    for name in header:
        _check_name(name)


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


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or ".." in name:
        shown = re.sub(r"[^\x20-\x7e]", "?", name)[:80]
        raise EngineError(
            "model_invalid", f"The tensor name {shown!r} is not allowed.", hint="Names have letters, digits and . _ - / : only."
        )


def _assign(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    if tensors and all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    wanted = module.state_dict()
    optional = {name for name in wanted if name.endswith("num_batches_tracked")}
    missing = sorted(set(wanted) - set(tensors) - optional)
    unexpected = sorted(set(tensors) - set(wanted))
    shapes = [
        f"{name}: {tuple(tensors[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted
        if name in tensors and tensors[name].shape != wanted[name].shape
    ]
    problems = [("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)]
    if missing or unexpected or shapes:
        listed = "; ".join(
            f"{len(names)} {word} ({', '.join(names[:_LISTED])}{', …' if len(names) > _LISTED else ''})"
            for word, names in problems
            if names
        )
        raise EngineError(
            "model_invalid",
            f"The tensors are not those of the architecture: {listed}.",
            hint="Check metadata.architecture and its params (num_classes, in_channels, image_size, depth), or upload ONNX.",
            details={"missing": missing[:100], "unexpected": unexpected[:100], "shapes": shapes[:100]},
        )
    for name, tensor in tensors.items():
        if tensor.is_floating_point() != wanted[name].is_floating_point():
            raise EngineError("model_invalid", f"Tensor {name!r} is {tensor.dtype}; {wanted[name].dtype} is needed.")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise EngineError("non_finite_weights", f"Tensor {name!r} holds NaN or infinity.", details={"tensor": name})
    given = {
        name: tensors[name].to(kept.dtype) if name in tensors else torch.zeros(kept.shape, dtype=kept.dtype)
        for name, kept in wanted.items()
    }
    module.load_state_dict(given, assign=True)
