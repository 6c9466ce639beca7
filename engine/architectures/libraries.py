"""Architectures of other libraries, which are optional: `timm:resnet18`, `torchvision:resnet18`, `transformers:bert`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from engine.contract.errors import EngineError


def imported(library: str, extra: str) -> Any:
    """The library. Raises `architecture_invalid` naming the extra that installs it."""
    try:
        return importlib.import_module(library)
    except (ImportError, RuntimeError) as error:  # torchvision beside another build of torch fails as the latter
        missing = isinstance(error, ModuleNotFoundError) and error.name == library
        raise EngineError(
            "architecture_invalid",
            f"The worker has no {library}." if missing else f"The worker's {library} does not load: {str(error)[:200]}.",
            hint=f"The operator installs it: pip install 'modelpress[{extra}]'; or upload ONNX, which needs none.",
        ) from error


def refused(library: str, name: str, known: Sequence[str]) -> EngineError:
    """The refusal of a network that a library does not have."""
    close = get_close_matches(name, known, n=3)
    return EngineError(
        "architecture_invalid",
        f"{library} has no network {name!r}.",
        hint=f"Did you mean {', '.join(close)}?" if close else f"Use a name of the {library} that the worker has.",
    )
