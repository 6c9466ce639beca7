"""How the tensors of a safetensors file are connected, stated in its metadata, so that the file is a whole model.

`modelpress.program` is the JSON of a `torch.export` program without weights, `modelpress.graph` an ONNX graph (base64) whose constants are
the file's tensors. Both are read as such files of strangers are: nothing of them is executed.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from engine.contract.errors import EngineError
from engine.contract.json import JsonObject
from engine.contract.metadata import ModelMetadata
from engine.files.safetensors import GRAPH, PROGRAM
from engine.formats.naming import renamed
from engine.formats.onnx.read import read as read_onnx
from engine.formats.pt2.export import document_of
from engine.formats.pt2.program import checked_path, program_of
from engine.formats.pt2.read import network_of
from engine.formats.safetensors.stored import CONSTANTS
from engine.networks.network import Network

_PLACE = "tensors"


def program(network: Network) -> tuple[JsonObject, dict[str, Tensor]]:
    """The description of a plain module, and the tensors that stand in the file for it. Raises `export_unsupported`."""
    document, constants = document_of(network)
    first: dict[int, str] = {}
    tied: JsonObject = {}
    for name, parameter in network.module.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            tied[name] = first[id(parameter)]
    stated: JsonObject = {"program": document, "parameters": list(first.values()), "tied": tied}
    return stated, {f"{CONSTANTS}{name}": tensor for name, tensor in constants.items()}


def of_program(text: str, tensors: Mapping[str, Tensor], signature: str | None) -> Network:
    """The network of a description. Raises `model_invalid` and what the reader of programs does."""
    try:
        stated = json.loads(text)
        parameters, tied, document = set(stated["parameters"]), dict(stated["tied"]), stated["program"]
        state: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            path = checked_path(name.removeprefix(CONSTANTS))
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise EngineError("non_finite_weights", f"Tensor {path!r} holds NaN or infinity.", details={"tensor": path})
            trained = path in parameters
            state[path] = nn.Parameter(tensor, requires_grad=tensor.is_floating_point()) if trained else tensor
        state |= {checked_path(name): state[other] for name, other in tied.items()}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise _invalid(error) from error
    found = network_of(program_of(document, state))
    return found.with_module(found.module, signature=renamed(found.signature, signature))


def graph(path: Path) -> str:
    """The description of an ONNX file whose constants are stored as tensors of their names."""
    model = onnx.load(path)
    for item in model.graph.initializer:
        name, shape, kind = item.name, list(item.dims), item.data_type
        item.Clear()
        item.name, item.data_type, item.data_location = name, kind, TensorProto.EXTERNAL
        item.dims.extend(shape)
        item.external_data.add(key="location", value=_PLACE)
    return base64.b64encode(model.SerializeToString()).decode()


def of_graph(text: str, tensors: Mapping[str, Tensor], work: Path) -> Network:
    """The network of a description. Raises `model_invalid` and what the reader of ONNX does."""
    try:
        model = onnx.load_from_string(base64.b64decode(text, validate=True))
        for item in model.graph.initializer:
            if item.data_location == TensorProto.EXTERNAL:
                item.CopyFrom(_filled(item, tensors[item.name]))
    except (KeyError, TypeError, ValueError, binascii.Error, RuntimeError) as error:
        raise _invalid(error) from error
    except Exception as error:  # protobuf's errors have no common class
        raise _invalid(error) from error
    work.mkdir(parents=True, exist_ok=True)
    whole = work / "described.onnx"
    whole.write_bytes(model.SerializeToString())
    return read_onnx(whole, ModelMetadata(), work)


def _filled(item: onnx.TensorProto, tensor: Tensor) -> onnx.TensorProto:
    """The constant with its values, which the file may store in a wider type."""
    wanted = onnx.helper.tensor_dtype_to_np_dtype(item.data_type)
    plain = tensor.view(torch.int16).numpy().view(wanted) if tensor.dtype is torch.bfloat16 else tensor.numpy()
    if list(plain.shape) != list(item.dims):
        raise ValueError(f"{item.name[:80]!r} has another shape")
    array: np.ndarray[Any, Any] = plain if plain.dtype == wanted else plain.astype(wanted)
    if plain.dtype != wanted and not np.array_equal(array.astype(plain.dtype), plain):
        raise ValueError(f"{item.name[:80]!r} has values that its type does not hold")
    return numpy_helper.from_array(array, item.name)


def described(metadata: Mapping[str, str]) -> bool:
    """Whether a file's metadata says how its tensors are connected."""
    return PROGRAM in metadata or GRAPH in metadata


def _invalid(error: Exception) -> EngineError:
    reason = re.sub(r"[^ -~]", "?", f"{type(error).__name__}: {error}")[:200]
    return EngineError("model_invalid", f"The description in the safetensors file contradicts it: {reason}.", hint="Export it again.")
