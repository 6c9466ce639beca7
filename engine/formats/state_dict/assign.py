"""From tensors and the name of a builtin architecture to a network."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import nn

from engine.architectures.build import build_architecture
from engine.architectures.spec import read_architecture
from engine.contract import limits
from engine.contract.errors import EngineError
from engine.contract.metadata import NamedArchitecture
from engine.formats.lifted import as_network
from engine.networks.network import Network

_NAME = re.compile(limits.TENSOR_NAME)
_LISTED = 8


def network_of(architecture: NamedArchitecture | None, read: Callable[[], Mapping[str, torch.Tensor]]) -> Network:
    """The network of a builtin architecture with the tensors that `read` gives, strictly: every tensor, no other, of the same shape.

    Raises `architecture_invalid`, `model_invalid`, `non_finite_weights`, and what `read` raises.
    """
    with torch.device("meta"):
        module, signature = build_architecture(architecture)
    given = read()
    if elsewhere := read_architecture(architecture)[0].elsewhere:
        given = _with_tied(module, given)
        _check(module, given)
        # Buffers that no file holds are computed when the module is made, so that it is made once more, in memory.
        module, signature = build_architecture(architecture)
    _assign(module, given, keep=elsewhere)
    return as_network(module, signature)


def _with_tied(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """With the tensors that a file leaves out because they are others by another name."""
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    found = dict(tensors)
    for tied in names.values():
        known = next((tensors[name] for name in tied if name in tensors), None)
        found |= {name: known for name in tied if name not in tensors and known is not None}
    return found


def check_name(name: str) -> None:
    """Raise `model_invalid` for a tensor's name that a file of weights may not hold."""
    if not _NAME.fullmatch(name) or ".." in name:
        shown = re.sub(r"[^\x20-\x7e]", "?", name)[:80]
        raise EngineError(
            "model_invalid", f"The tensor name {shown!r} is not allowed.", hint="Names have letters, digits and . _ - / : only."
        )


def _assign(module: nn.Module, tensors: Mapping[str, torch.Tensor], *, keep: bool) -> None:
    """Give the module its tensors; with `keep` they are copied into those it has, which may be tied."""
    tensors = _check(module, tensors)
    given = {
        name: tensors[name].to(kept.dtype) if name in tensors else torch.zeros(kept.shape, dtype=kept.dtype)
        for name, kept in module.state_dict().items()
    }
    module.load_state_dict(given, assign=not keep)


def _check(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """The tensors by the module's names. Raises `model_invalid` and `non_finite_weights` where they are not those of the module."""
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
    return tensors
