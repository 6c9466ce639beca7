"""The catalogue of builtin architectures, and what their parameters have in common. Imports no torch: the API lists and checks them.

An architecture is an entry of `ARCHITECTURES` in `engine/architectures/<family>/spec.py`, beside its parameters, and `build.py` with
`build(params) -> nn.Module`. Nothing registers anything: the catalogue walks the families.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import Field, ValidationError

import engine.architectures
from engine.contract.errors import EngineError
from engine.contract.findings import problems_of
from engine.contract.json import JsonObject
from engine.contract.params import Params
from engine.networks.network import Signature, TensorSpec


class ArchitectureParams(Params):
    """What a family can be built with."""

    def signature(self) -> Signature:
        """What the network takes and gives."""
        raise NotImplementedError


class ImageParams(ArchitectureParams):
    """What every image classifier here has: input (batch, in_channels, image_size, image_size), output (batch, num_classes)."""

    in_channels: int = Field(3, ge=1, le=64)
    """Channels of the images."""
    num_classes: int = Field(10, ge=1, le=100_000)
    """Number of outputs."""
    image_size: int = Field(32, ge=8, le=1024)
    """Height and width of the images, in pixels."""

    def signature(self) -> Signature:
        """Images in, class scores out."""
        image = (None, self.in_channels, self.image_size, self.image_size)
        return Signature((TensorSpec("input", image),), (TensorSpec("logits", (None, self.num_classes)),))


@dataclass(frozen=True)
class Architecture:
    """One entry of the list: a family and what this name fixes of its parameters."""

    name: str
    title: str
    family: str
    """The folder of `engine.architectures` that builds it."""
    params: type[ArchitectureParams]
    fixed: JsonObject
    reference: str

    @property
    def elsewhere(self) -> bool:
        """Whether it is a network of another library, which is lifted into layers that are known here."""
        return ":" in self.name

    def defaults(self) -> ArchitectureParams:
        """Parameters where nothing is stated."""
        return self.params(**self.fixed)

    def document(self) -> JsonObject:
        """The entry as JSON types, for the API."""
        defaults = self.defaults()
        return {
            "name": self.name,
            "title": self.title,
            "family": self.family,
            "description": (self.params.__doc__ or "").strip(),
            "params_schema": self.params.model_json_schema(),
            "defaults": defaults.model_dump(mode="json"),
            "input_shape": list(defaults.signature().inputs[0].shape),
            "reference": self.reference,
        }


@dataclass(frozen=True)
class Library:
    """A library whose networks are named `<library>:<network>`, where a worker has it; a family's spec holds it as `LIBRARY`."""

    name: str
    params: type[ArchitectureParams]
    """With a field `model` for the network's name in the library."""
    title: str
    reference: str

    def entry(self, model: str) -> Architecture:
        """One of its networks, whether there is such a one or not: only a worker knows."""
        return Architecture(f"{self.name}:{model}", self.title, self.name, self.params, {"model": model}, self.reference)


@functools.cache
def libraries() -> dict[str, Library]:
    """Every such library by name."""
    families = [package for package in pkgutil.iter_modules(engine.architectures.__path__, "engine.architectures.") if package.ispkg]
    found = [getattr(importlib.import_module(f"{family.name}.spec"), "LIBRARY", None) for family in families]
    return {library.name: library for library in found if isinstance(library, Library)}


@functools.cache
def catalogue() -> dict[str, Architecture]:
    """Every builtin architecture by name, sorted; found by importing `engine.architectures.<family>.spec` of every family."""
    found: dict[str, Architecture] = {}
    for package in pkgutil.iter_modules(engine.architectures.__path__, "engine.architectures."):
        if package.ispkg:
            for entry in importlib.import_module(f"{package.name}.spec").ARCHITECTURES:
                if entry.name in found:
                    raise ImportError(f"{package.name} and {found[entry.name].family} both have an architecture {entry.name!r}")
                found[entry.name] = entry
    return dict(sorted(found.items()))


def read_architecture(stated: Any) -> tuple[Architecture, ArchitectureParams]:
    """`metadata.architecture`: a name, or `{"name": …, "params": {…}}`. Raises `architecture_invalid` with what to write instead."""
    name, given = (stated.get("name"), stated.get("params") or {}) if isinstance(stated, dict) else (stated, {})
    if isinstance(stated, dict) and not set(stated) <= {"name", "params"}:
        raise EngineError("architecture_invalid", "metadata.architecture has fields other than name and params.")
    library, colon, model = name.partition(":") if isinstance(name, str) else ("", "", "")
    if colon and library in libraries():
        entry: Architecture | None = libraries()[library].entry(model)
    else:
        entry = catalogue().get(name) if isinstance(name, str) else None
    if entry is None:
        close = get_close_matches(str(name), catalogue(), n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"Architectures: {', '.join(catalogue())}; or upload ONNX, which needs none."
        problem = f"The architecture {str(name)[:80]!r} is not builtin." if name is not None else "The file holds weights only."
        raise EngineError("architecture_invalid", f"{problem} metadata.architecture has to name a builtin architecture.", hint=hint)
    if not isinstance(given, dict):
        raise EngineError("architecture_invalid", "metadata.architecture.params is not an object.")
    clash = {key for key, value in entry.fixed.items() if key in given and given[key] != value}
    if clash:
        raise EngineError("architecture_invalid", f"{entry.name} fixes {', '.join(sorted(clash))}.", hint="Choose another architecture.")
    try:
        return entry, entry.params(**{**entry.fixed, **given})
    except ValidationError as error:
        first = problems_of(error, entry.params, given)[0]
        where = "metadata.architecture.params" + first.pointer.replace("/", ".")
        known = ", ".join(entry.params.model_fields)
        raise EngineError("architecture_invalid", f"{where}: {first.detail}.", hint=f"Parameters: {known}.") from error


def listing() -> list[JsonObject]:
    """All builtin architectures as JSON types."""
    return [entry.document() for entry in catalogue().values()]
