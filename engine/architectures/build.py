"""From the name of a builtin architecture to a module with random initial weights."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from engine.architectures.spec import read_architecture

if TYPE_CHECKING:
    from torch import nn

    from engine.networks.network import Signature


def build_architecture(stated: Any) -> tuple[nn.Module, Signature]:
    """The module (train mode, random weights of torch's global generator) and its signature.

    The module's attribute `architecture` holds the description that it was built from.

    `stated` is `metadata.architecture`. Raises `architecture_invalid`.
    """
    entry, params = read_architecture(stated)
    module: nn.Module = importlib.import_module(f"engine.architectures.{entry.family}.build").build(params)
    module.architecture = {"name": entry.name, "params": params.model_dump(mode="json")}  # type: ignore[assignment]  # torch takes attributes of a module for tensors and modules
    return module, params.signature()
