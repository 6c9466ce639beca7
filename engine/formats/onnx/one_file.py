"""Writes a network with several settings as one ONNX file, in the form that `modelpress.runtime.subnets` reads."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from pydantic import JsonValue

from engine.contract.figures import Setting
from engine.contract.json import JsonObject
from modelpress.runtime.manifest import ArtifactError
from modelpress.runtime.subnets import ITEM_BYTES, SETTINGS_KEY, TENSORS_KEY, VERSION, open_settings

Array = NDArray[Any]
Places = tuple[int, ...]
_SMALL_BYTES = 1024
"""A tensor of another name is looked for only where storing it again would cost more than this."""


def settings_of(path: Path) -> tuple[str, ...] | None:
    """The names of the settings that a file holds, the one that it runs as first; None for a file of one setting, or a damaged description."""
    try:
        return tuple(entry.name for entry in open_settings(path).settings)
    except ArtifactError:
        return None


def pack(models: Sequence[tuple[Setting, onnx.ModelProto]], kept: Collection[Places]) -> onnx.ModelProto:
    """One model: the first one's graph, and beside it what the others have that is not a part of the first one's tensors.

    Args:
        models: The plain model of each setting; the first is the one that the file runs as it is.
        kept: Places of dimensions that a setting may keep of the first one's tensors, each ascending. Which tensor is cut where is seen
            from the values, so that whatever an exporter did to names or layouts, the parts are the very same numbers.
    """
    (first, base), *others = models
    made = onnx.ModelProto()
    made.CopyFrom(base)
    for tensor in made.graph.initializer:
        as_raw(tensor)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    types = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    places: dict[Places, int] = {}
    own, graphs = bytearray(), bytearray()
    entries: list[JsonObject] = [_entry(first)]
    for setting, model in others:
        tensors: list[JsonValue] = []
        for tensor in model.graph.initializer:
            found = _part(tensor, arrays, types, kept)
            if found is not None:
                name, keep = found
                tensors.append([tensor.name, name, {str(dim): places.setdefault(index, len(places)) for dim, index in keep.items()}])
            else:
                stated, content = _own(tensor)
                tensors.append([tensor.name, len(own), *stated])
                own += content
        skeleton = onnx.ModelProto()
        skeleton.CopyFrom(model)
        skeleton.graph.ClearField("initializer")
        content = skeleton.SerializeToString(deterministic=True)
        graphs += content
        entries.append({**_entry(setting), "graph_bytes": len(content), "tensors": tensors})
    document = {"version": VERSION, "places": [_ranges(index) for index in places], "settings": entries}
    text = json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
    onnx.helper.set_model_props(
        made,
        {
            **{item.key: item.value for item in made.metadata_props},
            SETTINGS_KEY: base64.b64encode(zlib.compress(text + b"\0" + bytes(graphs), 9)).decode(),
            TENSORS_KEY: base64.b64encode(bytes(own)).decode(),
        },
    )
    return made


def _entry(setting: Setting) -> JsonObject:
    return {"name": setting.name, "values": {**setting.values}}


def _own(tensor: TensorProto) -> tuple[list[JsonValue], bytes]:
    """How a tensor is stated, and its bytes: raw values of a shape and a type, or a whole TensorProto."""
    if tensor.data_type not in ITEM_BYTES:
        content = tensor.SerializeToString(deterministic=True)
        return [len(content)], content
    as_raw(tensor)
    return [list(tensor.dims), tensor.data_type], tensor.raw_data


def as_raw(tensor: TensorProto) -> None:
    """Store the values as bytes, in place, as they can be cut then; strings stay."""
    if not tensor.HasField("raw_data") and tensor.data_type != TensorProto.STRING:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))


def _part(
    tensor: TensorProto, arrays: Mapping[str, Array], types: Mapping[str, int], kept: Collection[Places]
) -> tuple[str, dict[int, Places]] | None:
    """The tensor of the first setting that this one is a part of, and the places of each dimension; None where it is of none."""
    wanted = numpy_helper.to_array(tensor)
    if tensor.data_type == TensorProto.STRING:
        return None
    names = [tensor.name] if tensor.name in arrays else []
    if wanted.nbytes > _SMALL_BYTES:
        names += [name for name in arrays if name != tensor.name]
    for name in names:
        whole = arrays[name]
        if (
            types[name] == tensor.data_type
            and whole.ndim == wanted.ndim
            and all(a >= b for a, b in zip(whole.shape, wanted.shape, strict=True))
        ):
            for keep in _choices(whole.shape, wanted.shape, kept):
                if _is_part(whole, wanted, keep):
                    return name, keep
    return None


def _choices(whole: Sequence[int], part: Sequence[int], kept: Collection[Places]) -> Iterator[dict[int, Places]]:
    """Which places of each dimension may have been kept, by the sizes."""
    cut = [dim for dim, (before, after) in enumerate(zip(whole, part, strict=True)) if before != after]
    each = [[places for places in kept if len(places) == part[dim] and places[-1] < whole[dim]] for dim in cut]
    for choice in product(*each):
        yield dict(zip(cut, choice, strict=True))


def _is_part(whole: Array, wanted: Array, keep: Mapping[int, Places]) -> bool:
    """Whether the kept places hold the very same bits; a few are looked at first."""
    corner = tuple(keep[dim][0] if dim in keep else 0 for dim in range(whole.ndim))
    if wanted.size and whole[corner].tobytes() != wanted[(0,) * wanted.ndim].tobytes():
        return False
    for dim, places in keep.items():
        whole = whole.take(np.asarray(places), axis=dim)
    return whole.tobytes() == wanted.tobytes()


def _ranges(places: Places) -> list[list[int]]:
    """Ascending places as ranges."""
    found: list[list[int]] = []
    for place in places:
        if found and found[-1][1] == place:
            found[-1][1] = place + 1
        else:
            found.append([place, place + 1])
    return found
