"""Folders as transformers and timm save them, as a zip: `config.json` beside safetensors, whole or in shards; the standard library only.

Only names on a list are taken: what else lies in such folders may be code, or pickles.
"""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any

from engine.architectures.spec import read_architecture
from engine.contract import limits
from engine.contract.errors import EngineError
from engine.contract.file_format import FileFormat
from engine.contract.json import JsonObject
from engine.contract.metadata import ModelMetadata, NamedArchitecture
from engine.files import folders
from engine.files.archive import DAMAGED, open_archive, printable

HINT = "Save it with model.save_pretrained(folder), and zip config.json with the .safetensors files."
CONFIG, INDEX = "config.json", "model.safetensors.index.json"
OWN = "modelpress"
"""Key of the config for what this service says about a network in its own words."""
WEIGHTS = "model.safetensors"
DESCRIBED, PARAMS = "described", "params"
"""Below `modelpress`: whether the metadata of the weights says how they are connected; and parameters of the library's architecture that its
config does not have."""
_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
_BESIDE = frozenset(
    [
        "generation_config.json",
        "preprocessor_config.json",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "spiece.model",
        "tokenizer.model",
        "README.md",
        "LICENSE",
        "LICENSE.txt",
        "NOTICE",
        "USE_POLICY.md",
    ]
)
"""What customarily lies beside; not read."""
_PROGRAMS = (".py", ".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".so", ".sh")


@dataclass(frozen=True)
class Folder:
    """The members that are read."""

    config: zipfile.ZipInfo
    weights: dict[str, zipfile.ZipInfo]
    """By their name in the folder, sorted."""


def recognizes(head: bytes) -> bool:
    """Whether an archive begins with a config or with weights of that name."""
    names = [PurePosixPath(name).name for name in folders.first_names(head) if not name.endswith("/")]
    ours = [name for name in names if name in (CONFIG, INDEX) or _WEIGHTS.fullmatch(name)]
    return bool(ours) and all(name in (*_BESIDE, *ours) or name.endswith(_PROGRAMS) for name in names)


def check(stream: IO[bytes], size: int) -> None:
    """Check names, sizes and the config. Raises `unsafe_format`, `model_invalid`, `architecture_invalid`, and `archive.DAMAGED`."""
    with open_archive(stream) as archive:
        config_of(archive, folder_of(archive))


def folder_of(archive: zipfile.ZipFile) -> Folder:
    """What of the archive is read. Raises `unsafe_format`, `model_invalid`, `decompression_limit_exceeded`."""
    found: dict[str, zipfile.ZipInfo] = {}
    roots = set()
    for info in folders.members(archive):
        path = PurePosixPath(info.filename)
        roots.add(path.parent)
        shown = printable(info.filename)
        if path.name.lower().endswith(_PROGRAMS):
            raise EngineError("unsafe_format", f"{shown!r} is code, or would have to be unpickled.", hint=f"Leave it out. {HINT}")
        if path.name not in (CONFIG, INDEX, *_BESIDE) and not _WEIGHTS.fullmatch(path.name):
            raise EngineError("model_invalid", f"{shown!r} is no file of such a folder that is taken.", hint=f"Leave it out. {HINT}")
        if path.name in found or len(roots) > 1:
            raise EngineError("model_invalid", f"{shown!r} stands twice, or in another folder than the rest.", hint=HINT)
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise EngineError("model_invalid", f"{shown!r} is encrypted or compressed in an unusual way.", hint=HINT)
        if info.file_size > limits.FREE_INFLATE_BYTES and info.file_size > limits.MAX_INFLATE_RATIO * info.compress_size:
            raise folders.bomb(info.filename, f"{info.file_size} bytes from {info.compress_size}")
        found[path.name] = info
    weights = {name: info for name, info in sorted(found.items()) if _WEIGHTS.fullmatch(name)}
    if CONFIG not in found or not weights:
        raise EngineError("model_invalid", "The folder has no config.json, or no model.safetensors.", hint=HINT)
    if "model.safetensors" in weights and len(weights) > 1:
        raise EngineError("model_invalid", "The folder has whole weights and shards.", hint="Leave one of them out.")
    counts = {name.rpartition("-")[2] for name in weights}
    if len(weights) > 1 and counts != {f"{len(weights):05d}.safetensors"}:
        raise EngineError("model_invalid", f"The folder has {len(weights)} shards, and their names state another number.", hint=HINT)
    return Folder(found[CONFIG], weights)


def config_of(archive: zipfile.ZipFile, folder: Folder) -> JsonObject:
    """The config. Raises `model_invalid`."""
    if folder.config.file_size > limits.MAX_HEADER_BYTES:
        raise EngineError("tensor_limit_exceeded", f"config.json has {folder.config.file_size} bytes.")
    try:
        config = json.loads(archive.read(folder.config))
    except DAMAGED as error:  # JSON's errors are ValueErrors
        raise EngineError("model_invalid", f"config.json cannot be read: {str(error)[:100]}.", hint=HINT) from error
    except RecursionError as error:
        raise EngineError("model_invalid", "config.json is nested without end.", hint=HINT) from error
    if not isinstance(config, dict):
        raise EngineError("model_invalid", "config.json is no object.", hint=HINT)
    return config


def is_described(config: JsonObject) -> bool:
    """Whether the weights say themselves how they are connected."""
    own = config.get(OWN)
    return isinstance(own, dict) and own.get(DESCRIBED) is True


def architecture_of(config: JsonObject, declared: NamedArchitecture | None) -> NamedArchitecture:
    """The architecture that a config describes; `declared` may add parameters, such as the length of texts.

    Raises `architecture_invalid`.
    """
    named: Any
    own = config.get(OWN)
    if isinstance(own, dict) and "architecture" in own:
        named = own["architecture"]
    elif isinstance(config.get("architecture"), str):  # timm's
        pretrained = config.get("pretrained_cfg")
        size = pretrained.get("input_size") if isinstance(pretrained, dict) else None
        sizes = {"in_channels": size[0], "image_size": size[1]} if isinstance(size, list) and len(size) == 3 else {}
        classes = {"num_classes": config["num_classes"]} if "num_classes" in config else {}
        named = {"name": f"timm:{str(config['architecture']).partition('.')[0]}", "params": {**classes, **sizes}}
    else:
        heads = config.get("architectures")
        head = heads[0] if isinstance(heads, list) and heads else ""
        named = {"name": f"transformers:{config.get('model_type')}", "params": {"head": head, "config": config}}
    added = declared.get("params") if isinstance(declared, dict) else None
    if added is None and isinstance(own, dict):
        added = own.get(PARAMS)
    stated = declared.get("name") if isinstance(declared, dict) else declared
    if stated not in (None, named["name"] if isinstance(named, dict) else named):
        raise EngineError("architecture_invalid", "metadata.architecture is another one than config.json names.", hint="Leave it out.")
    if isinstance(named, dict) and isinstance(added, dict):
        named = {**named, "params": {**named.get("params", {}), **added}}
    read_architecture(named)
    return named  # type: ignore[no-any-return]  # `read_architecture` would have refused anything else


def _metadata(stream: IO[bytes], declared: ModelMetadata) -> ModelMetadata:
    try:
        with open_archive(stream) as archive:
            config = config_of(archive, folder_of(archive))
            if is_described(config):
                return declared.model_copy(update={"architecture": None})
    except DAMAGED as error:
        raise EngineError("truncated_upload", "The archive has no end, or is damaged.", hint="Upload the file again.") from error
    return declared.model_copy(update={"architecture": architecture_of(config, declared.architecture)})


FORMAT = FileFormat("huggingface", "model", (".hf.zip",), recognizes, check, packed=True, metadata=_metadata, holds_modules=True)
