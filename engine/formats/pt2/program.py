"""The exported program in an archive of `torch.export.save`, read as data: JSON and raw tensors, nothing is unpickled or evaluated."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.contract import limits
from engine.contract.errors import EngineError
from engine.files.archive import open_archive
from engine.files.pt2 import CONFIGS, CONSTANTS, EXPORT_HINT, NAMES, PROGRAM, WEIGHTS, members
from engine.formats.naming import renamed
from engine.networks.network import Signature, TensorSpec

Item = Mapping[str, Any]
"""An object of the program's JSON, as it stands in the file: a node, an argument, the metadata of a tensor."""

SCHEMA = 8
"""Major version of torch's schema that is read here."""
_DAMAGED = (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError, OverflowError)
_PATH = re.compile(r"\w{1,128}(\.\w{1,128}){0,32}", re.ASCII)
_NAME = re.compile(r"[A-Za-z_]\w{0,127}", re.ASCII)
_PAYLOAD = re.compile(r"(weight|tensor)_\d{1,9}")
DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
"""torch's numbers of element types; complex and quantized ones are not read."""


@dataclass(frozen=True)
class Program:
    """What the file says, checked as far as that goes without running it."""

    nodes: list[Item]
    lifted: Mapping[str, str]
    """Value in the graph → path of the parameter or buffer that it is."""
    state: Mapping[str, Tensor]
    """Parameters (`nn.Parameter`) and buffers by path; tied ones are the same object."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    signature: Signature
    ranks: Mapping[str, int]
    """Number of dimensions of every tensor in the graph."""


def read_program(path: Path) -> Program:
    """The program of a file that `engine.files.pt2.check` has passed.

    Raises `model_invalid`, `unsupported_operator`, `unsafe_format`, `tensor_limit_exceeded`, `non_finite_weights`.
    """
    try:
        with path.open("rb") as stream, open_archive(stream) as archive:
            found = members(archive)
            document = json.loads(archive.read(found[PROGRAM]))
            state: dict[str, Tensor] = {}
            for config, folder in zip(CONFIGS, (WEIGHTS, CONSTANTS), strict=True):
                state |= _tensors(archive, found, json.loads(archive.read(found[config]))["config"], folder)
            names = found.get(NAMES)
            stated = archive.read(names) if names is not None and names.file_size <= limits.MAX_LINE_BYTES else b"null"
        program = program_of(document, state)
        return dataclasses.replace(program, signature=renamed(program.signature, stated))
    except (*_DAMAGED, zipfile.BadZipFile) as error:
        raise _damaged(error) from error


def program_of(document: Item, state: dict[str, Tensor]) -> Program:
    """The program that torch's JSON describes, on the given parameters and buffers. Raises as `read_program` does."""
    try:
        if document["schema_version"]["major"] != SCHEMA:
            raise EngineError(
                "model_invalid",
                f"The program is of version {document['schema_version']['major']!r} of torch's schema, not {SCHEMA}.",
                hint="Export it with the torch of this service, or upload ONNX.",
            )
        return _program(document["graph_module"], state)
    except _DAMAGED as error:
        raise _damaged(error) from error


def _damaged(error: Exception) -> EngineError:
    return EngineError("model_invalid", f"The exported program is damaged: {type(error).__name__}: {str(error)[:200]}.", hint=EXPORT_HINT)


def _tensors(archive: zipfile.ZipFile, found: Mapping[str, zipfile.ZipInfo], config: Item, folder: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    known: dict[str, Tensor] = {}
    for path, entry in config.items():
        if entry["use_pickle"] is not False or not _PAYLOAD.fullmatch(entry["path_name"]):
            raise EngineError("unsafe_format", f"The tensor {path[:80]!r} would have to be unpickled.", hint=EXPORT_HINT)
        checked_path(path)
        meta = entry["tensor_meta"]
        key = json.dumps([entry["path_name"], meta["dtype"], meta["sizes"], meta["strides"], meta["storage_offset"], entry["is_param"]])
        if key not in known:
            tensor = _tensor(archive.read(found[folder + entry["path_name"]]), meta, path)
            trained = bool(meta["requires_grad"]) and tensor.is_floating_point()
            known[key] = nn.Parameter(tensor, requires_grad=trained) if entry["is_param"] else tensor
        tensors[path] = known[key]
    return tensors


def _tensor(raw: bytes, meta: Item, path: str) -> Tensor:
    """The stored values, never more of them than there are bytes for."""
    dtype = DTYPES.get(meta["dtype"])
    if dtype is None:
        raise EngineError("unsupported_operator", f"The tensor {path!r} has an element type that is not read.", hint=EXPORT_HINT)
    sizes, strides = ([_number(item) for item in meta[key]] for key in ("sizes", "strides"))
    offset, count = _number(meta["storage_offset"]), math.prod(sizes)
    stored = len(raw) // dtype.itemsize
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True)) if count else -1
    if len(sizes) > limits.MAX_RANK or count > stored or last >= stored:
        raise EngineError("tensor_limit_exceeded", f"The tensor {path!r} claims more elements than the file stores.")
    base = torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype)
    tensor = torch.as_strided(base, sizes, strides, offset).clone(memory_format=torch.contiguous_format)
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise EngineError("non_finite_weights", f"Tensor {path!r} holds NaN or infinity.", details={"tensor": path})
    return tensor


def _program(document: Item, state: dict[str, Tensor]) -> Program:
    graph, signature = document["graph"], document["signature"]
    lifted: dict[str, str] = {}
    inputs: list[str] = []
    for item in signature["input_specs"]:
        ((kind, spec),) = item.items()
        if kind in ("parameter", "buffer", "tensor_constant"):
            path = checked_path(spec[f"{kind}_name"])
            if path not in state:
                raise EngineError("model_invalid", f"The file has no values of {path!r}.", hint=EXPORT_HINT)
            lifted[spec["arg"]["name"]] = path
        elif kind == "user_input" and "as_tensor" in spec["arg"]:
            inputs.append(spec["arg"]["as_tensor"]["name"])
        else:
            raise EngineError(
                "unsupported_operator",
                f"The program takes an input that is no tensor ({kind}).",
                hint="Export the model with tensors as its only arguments.",
            )
    outputs = [spec["user_output"]["arg"]["as_tensor"]["name"] for spec in signature["output_specs"] if "user_output" in spec]
    if not inputs or not outputs or len(graph["nodes"]) > limits.MAX_NODES:
        raise EngineError("model_invalid", "The program has no inputs, no outputs, or too many operators.", hint=EXPORT_HINT)
    values = graph["tensor_values"]
    return Program(
        nodes=graph["nodes"],
        lifted=lifted,
        state=state,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        signature=Signature(tuple(_spec(name, values[name]) for name in inputs), tuple(_spec(name, values[name]) for name in outputs)),
        ranks={name: len(meta["sizes"]) for name, meta in values.items()},
    )


def _spec(name: str, meta: Item) -> TensorSpec:
    """Name, shape and type of an input or output; sizes that the program computes are open."""
    dtype = DTYPES.get(meta["dtype"])
    if dtype is None or not _NAME.fullmatch(name):
        raise EngineError("unsupported_operator", f"The value {name[:80]!r} has a name or an element type that is not read.")
    return TensorSpec(name, tuple(item.get("as_int") for item in meta["sizes"]), str(dtype).removeprefix("torch."))


def checked_path(path: str) -> str:
    """The path of a parameter or buffer, which becomes attributes of modules. Raises `model_invalid`."""
    if not _PATH.fullmatch(path) or "__" in path or any(hasattr(nn.Module, part) for part in path.split(".")):
        raise EngineError("model_invalid", f"The tensor name {re.sub(r'[^ -~]', '?', path)[:80]!r} is not allowed.", hint=EXPORT_HINT)
    return path


def _number(item: Item) -> int:
    value = item["as_int"]
    if type(value) is not int or value < 0:
        raise ValueError(f"a size of {value!r}")
    return value
