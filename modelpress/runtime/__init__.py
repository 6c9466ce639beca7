"""Runs published artifacts that are more than one network. Needs numpy and onnxruntime, and nothing else.

`load` reads the artifact's JSON document, its manifest, and returns what runs it:

    network = modelpress.runtime.load("step0-exits.json", budget=0.35)
    answer = network.run({"input": images})

An ONNX file that holds several settings (the widths of a slimmable network) is loaded at one of them:

    narrow = modelpress.runtime.load("model.onnx", width=0.5)

A file of packed weights is an artifact by itself: `load("step0-packed.safetensors")` opens it (see `modelpress.runtime.packed`).

A kind of artifact is one module of this folder with a function `load(manifest, **options)`, named in `KINDS`.
"""

import importlib
from os import PathLike
from pathlib import Path
from typing import Any

from modelpress.runtime import packed
from modelpress.runtime.manifest import ArtifactError, Manifest

__all__ = ["KINDS", "ArtifactError", "Manifest", "load"]

KINDS: dict[str, str] = {"early_exit": "early_exit"}
"""Module of this folder by the kind of artifact that a manifest states."""


def load(path: str | PathLike[str], **options: Any) -> Any:
    """What runs the artifact whose manifest is at `path`; its other files stand in the same folder.

    Args:
        path: The JSON document, an ONNX file with several settings, or a safetensors file of packed weights.
        options: Those of the kind's own `load`: a budget, a width, a number of threads.

    Raises:
        ArtifactError: The document or a file beside it is missing, changed, or of a kind that this version does not know.
    """
    if Path(path).suffix == ".onnx":
        return importlib.import_module("modelpress.runtime.one_file").load(Path(path), **options)
    if Path(path).suffix == ".safetensors":
        return packed.open(path, **options)
    manifest = Manifest.read(Path(path))
    if manifest.kind not in KINDS:
        known = ", ".join(sorted(KINDS)) or "none"
        raise ArtifactError(f"{manifest.path.name} is an artifact of the kind {manifest.kind!r}; this version of modelpress knows {known}")
    return importlib.import_module(f"modelpress.runtime.{KINDS[manifest.kind]}").load(manifest, **options)
