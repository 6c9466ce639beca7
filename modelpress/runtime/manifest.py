"""The JSON document of an artifact that consists of several files: what it is, and which files belong to it.

    {"modelpress": "early_exit", "version": 1, "files": {"stage 1": {"name": "step0-stage1.onnx", "sha256": "…"}}, …}

Everything beside these three keys is up to the kind of artifact.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VERSION = 1


class ArtifactError(ValueError):
    """An artifact that cannot be run: what is wrong, and with which file."""


@dataclass(frozen=True)
class Manifest:
    """The document, and where it stands."""

    path: Path
    kind: str
    document: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """The document at `path`. Raises `ArtifactError` where it is no such document."""
        try:
            document = json.loads(path.read_bytes())
        except FileNotFoundError as error:
            raise ArtifactError(f"there is no file {path.name} in {path.parent}") from error
        except ValueError as error:
            raise ArtifactError(f"{path.name} is not JSON: {error}") from error
        if not isinstance(document, dict) or not isinstance(document.get("modelpress"), str):
            raise ArtifactError(f"{path.name} is no manifest: its key 'modelpress' names the kind of artifact")
        if document.get("version") != VERSION:
            raise ArtifactError(f"{path.name} has version {document.get('version')!r}; this version of modelpress reads {VERSION}")
        return cls(path, document["modelpress"], document)

    def file(self, key: str) -> Path:
        """A file of the artifact by its key, in the manifest's own folder. Raises `ArtifactError` where it is missing or changed."""
        entry = self.document.get("files", {}).get(key)
        if entry is None:
            raise ArtifactError(f"{self.path.name} names no file {key!r}")
        name = str(entry["name"])
        if Path(name).name != name:
            raise ArtifactError(f"{self.path.name} names a file outside of its folder: {name!r}")
        path = self.path.parent / name
        if not path.is_file():
            raise ArtifactError(f"{name} is missing: it belongs beside {self.path.name}")
        if hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
            raise ArtifactError(f"{name} is not the file that {self.path.name} was written with: its sha256 differs")
        return path
