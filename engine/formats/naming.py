"""The names of inputs and outputs that a file of this service states beside a form that names them in its own way."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from engine.networks.network import Signature, TensorSpec

_LONGEST = 256


def renamed(found: Signature, stated: Any) -> Signature:
    """The signature with the names of `stated` (what `Signature.to_json` wrote, or its text); unchanged where that is of another network.

    Shapes and types are those that were found.
    """
    try:
        known = Signature.from_json(json.loads(stated) if isinstance(stated, str | bytes) else stated)
        return Signature(_side(found.inputs, known.inputs), _side(found.outputs, known.outputs))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return found


def _side(found: tuple[TensorSpec, ...], stated: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    names = [spec.name for spec in stated]
    if len(set(names)) < len(found) or not all(
        isinstance(name, str) and 0 < len(name) <= _LONGEST and name.isprintable() for name in names
    ):
        raise ValueError("names of another network")
    return tuple(dataclasses.replace(own, name=name) for own, name in zip(found, names, strict=True))
