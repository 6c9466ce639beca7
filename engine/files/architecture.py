"""The file format `architecture`: a JSON object that names a builtin architecture to be trained, instead of weights.

`{"name": "lenet_300_100", "params": {"num_classes": 10}, "seed": 0}`; `params` and `seed` may be left out. The network is a definite one:
its weights are those that torch draws after `seed`. Imports no torch: the API checks such files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import IO, Any

from engine.architectures.spec import read_architecture
from engine.contract.errors import EngineError
from engine.contract.file_format import FileFormat
from engine.contract.json import JsonObject
from engine.contract.metadata import ModelMetadata

MAX_BYTES = 64 * 1024
MAX_SEED = 2**32


@dataclass(frozen=True)
class Description:
    """A builtin architecture and what its initial weights are drawn with."""

    architecture: JsonObject
    """`{"name": …, "params": {…}}`, as `metadata.architecture` states it."""
    seed: int

    @classmethod
    def of(cls, document: Any) -> Description:
        """A checked description: a name, or an object. Raises `architecture_invalid`."""
        fields = document if isinstance(document, dict) else {"name": document}
        if unknown := sorted(set(fields) - {"name", "params", "seed"}):
            raise EngineError(
                "architecture_invalid", f"An architecture has no field {unknown[0][:80]!r}.", hint="Fields: name, params, seed."
            )
        seed = fields.get("seed", 0)
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < MAX_SEED:
            raise EngineError("architecture_invalid", f"seed is a whole number from 0 to {MAX_SEED - 1}.")
        architecture = {key: fields[key] for key in ("name", "params") if key in fields}
        read_architecture(architecture)
        return cls(architecture, seed)

    def to_bytes(self) -> bytes:
        """The file, the same bytes for the same description."""
        return json.dumps({**self.architecture, "seed": self.seed}, sort_keys=True, separators=(",", ":")).encode()


def read_description(stream: IO[bytes]) -> Description:
    """The description in a file, from where the stream stands. Raises `architecture_invalid`."""
    text = stream.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise EngineError("architecture_invalid", f"The description has more than {MAX_BYTES} bytes.")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise EngineError("architecture_invalid", f"The description is not JSON: {str(error)[:200]}.") from error
    return Description.of(document)


def _check(stream: IO[bytes], size: int) -> None:
    read_description(stream)


def _metadata(stream: IO[bytes], declared: ModelMetadata) -> ModelMetadata:
    named = read_description(stream).architecture
    if declared.architecture not in (None, named):
        raise EngineError(
            "architecture_invalid", "metadata.architecture is another one than the file names.", hint="Leave it out of the metadata."
        )
    return declared.model_copy(update={"architecture": named})


FORMAT = FileFormat(
    "architecture",
    "model",
    (".json",),
    lambda head: head.lstrip().startswith(b"{"),
    _check,
    vague=True,
    has_weights=False,
    metadata=_metadata,
)
