"""What a file format declares, and the catalogue that finds every format.

A format is one module `engine/files/<name>.py` that holds `FORMAT` and loads no library of the format: the service runs it on the bytes of
strangers. What reads and writes such files lies in the engine, by the same name, and is imported in job processes only:

* a model format is the package `engine/formats/<name>/` with `read.py` where uploads are read, and `write.py` where results are published
  in it; where such a result is run by a runtime of its own instead of being read again, `session.py` besides;
* a dataset format is the module `engine/data/<name>.py`.

Nothing registers anything: the catalogue walks `engine.files`. This module imports neither torch nor numpy.
"""

import functools
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Literal

from engine.contract.errors import EngineError
from engine.contract.metadata import ModelMetadata

Kind = Literal["model", "dataset"]


@dataclass(frozen=True)
class FileFormat:
    """One format of models or of datasets."""

    name: str
    """The value of `format` in the API, and the name of the format's modules."""
    holds: Kind
    endings: tuple[str, ...]
    """How names of such files end, with the dot; the first one is what the service itself writes."""
    recognizes: Callable[[bytes], bool]
    """Whether a file that begins with these bytes (up to `engine.files.magic.SNIFF_BYTES`) is of this format."""
    check: Callable[[IO[bytes], int], None]
    """Looks at a whole seekable file of the given size without reading its data. Raises EngineError, and what stands in `archive.DAMAGED`."""
    vague: bool = False
    """The first bytes only make the format likely: other formats are asked before."""
    special: bool = False
    """Files of a more general format begin the same, so that this one is asked before: a file of either may be declared as the other."""
    packed: bool = False
    """A file of models is an archive whose size says nothing about the network's: that of its ONNX form counts."""
    has_structure: bool = True
    """Whether a model file holds how its tensors are connected; without that, `metadata.architecture` has to."""
    describes_itself: Callable[[IO[bytes]], bool] | None = None
    """Of a format without structure: whether a checked file states it all the same, as those do that the service wrote."""
    holds_modules: bool = False
    """Results are published in it as trainable modules, so that what quantization makes (a graph of integer kernels) is refused."""
    has_weights: bool = True
    """Whether a model file holds weights; without them the weights are drawn, and the model is still to be trained."""
    metadata: Callable[[IO[bytes], ModelMetadata], ModelMetadata] | None = None
    """Adds to what the owner of a model declared what a checked file states about itself; raises EngineError where the two contradict."""

    @property
    def ending(self) -> str:
        """How the names of files that the service writes end."""
        return self.endings[0]

    @property
    def readable(self) -> bool:
        """Whether uploads of this format are read; looks for the reader without importing it."""
        return self.holds == "dataset" or _present(f"engine.formats.{self.name}", "read")

    @property
    def runs(self) -> bool:
        """Whether results in this format are run by a runtime of their own; looks for `session.py` without importing it."""
        return self.holds == "model" and _present(f"engine.formats.{self.name}", "session")

    @property
    def writable(self) -> bool:
        """Whether results can be published in this format; looks for `write.py` without importing it."""
        return self.holds == "model" and _present(f"engine.formats.{self.name}", "write")


@functools.cache
def catalogue() -> dict[str, FileFormat]:
    """Every format by name, sorted; found by importing the modules of `engine.files`."""
    found: dict[str, FileFormat] = {}
    for module in pkgutil.iter_modules(importlib.import_module("engine.files").__path__, "engine.files."):
        format = getattr(importlib.import_module(module.name), "FORMAT", None)
        if isinstance(format, FileFormat):
            if module.name.rpartition(".")[2] != format.name:
                raise ImportError(f"{module.name} declares the format {format.name!r}: a format is named like its module")
            found[format.name] = format
    return dict(sorted(found.items()))


def names(holds: Kind) -> tuple[str, ...]:
    """The formats of models that are read, or those of datasets."""
    return tuple(format.name for format in catalogue().values() if format.holds == holds and format.readable)


def writable_names() -> tuple[str, ...]:
    """The formats in which results can be published."""
    return tuple(format.name for format in catalogue().values() if format.writable)


def format_of(name: str, holds: Kind) -> FileFormat:
    """A format by its name. Raises `unsupported_format` with the formats that there are."""
    format = catalogue().get(name)
    if format is None or format.holds != holds:
        raise EngineError(
            "unsupported_format", f"{name[:80]!r} is no format of a {holds}.", hint=f"Formats of a {holds}: {', '.join(names(holds))}."
        )
    return format


def ending_of(name: str) -> str:
    """How the names of files of a format end, also of one that is no longer installed."""
    return catalogue()[name].ending if name in catalogue() else f".{name}"


def by_ending(ending: str) -> FileFormat | None:
    """The format whose files end so, or None where there is none or more than one."""
    found = [format for format in catalogue().values() if ending.lower() in format.endings]
    return found[0] if len(found) == 1 else None


def _present(package: str, module: str) -> bool:
    return importlib.util.find_spec(package) is not None and importlib.util.find_spec(f"{package}.{module}") is not None
