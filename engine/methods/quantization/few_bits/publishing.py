"""Puts indices into a few levels in the place of the weights of an exported network, and writes the file of packed weights beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from engine.contract.display import Cell, Table
from engine.formats.onnx.export import export_onnx
from engine.formats.onnx.packed import Indexed, pack
from engine.formats.packed import save_packed
from engine.methods.context import Context
from engine.networks.network import Network

_ALIKE = 1e-5
"""Up to this share of the largest weight, weights of the file are those of the module times a factor a channel."""


def publish(network: Network, plain: nn.Module, weights: Mapping[str, Indexed], context: Context, *, entropy_coded: bool) -> Network:
    """The network as an ONNX file with packed weights; reports what they take.

    Args:
        network: What the step was given.
        plain: The network to publish, on the CPU, its weights being exactly the levels.
        weights: Indices and levels by the weight's name in the module.
        context: Takes the report, and publishes the file that `modelpress.runtime.packed` reads.
        entropy_coded: Whether that file may hold the indices in a Huffman code.
    """
    path = context.work / "float.onnx"
    export_onnx(plain, network.signature, path)
    model = onnx.load(path)
    float_bytes = path.stat().st_size
    found = matched(model, weights)
    names = {name for name, _ in found.values()}
    left = [name for name in weights if name not in names]
    if left:
        context.warn(
            "stored_in_float",
            f"The exported file has these weights in another form, so they are stored in float: {', '.join(left)}.",
            weights=left,
        )
    stored = {initializer: indexed for initializer, (_, indexed) in found.items()}
    artifact = context.work / "packed.safetensors"
    sizes = save_packed(artifact, model, stored, entropy_coded=entropy_coded)
    context.artifact(artifact, kind="packed_weights", format="safetensors")
    target = context.work / "packed.onnx"
    onnx.save(pack(model, stored), target)
    rows = [_row(name, indexed, sizes[initializer]) for initializer, (name, indexed) in found.items()]
    context.report("layers", rows)
    context.report("file_bytes", {"float": float_bytes, "onnx": target.stat().st_size, "packed": artifact.stat().st_size})
    context.show(Table.of("Weights in few bits", "weight", rows))
    return network.with_onnx(target, module=plain)


def _row(name: str, indexed: Indexed, stored_bytes: int) -> dict[str, Cell]:
    count = indexed.indices.size
    zeros = float(np.mean(indexed.values() == 0)) if count else 0.0
    return {
        "weight": name,
        "weights_count": count,
        "levels_count": len(indexed.levels),
        "bits": indexed.bits,
        "bits_in_packed_file": 8 * stored_bytes / max(1, count),
        "sparsity": zeros,
    }


def matched(model: onnx.ModelProto, weights: Mapping[str, Indexed]) -> dict[str, tuple[str, Indexed]]:
    """The weight's name, and how it is stored, by the name of every initializer that is one of them.

    Exporters transpose matrices, fold the scales of normalizations into what is before them, and rename tensors: a weight is recognized by
    its values, of those of one name first.
    """
    found: dict[str, tuple[str, Indexed]] = {}
    tensors = {
        item.name: numpy_helper.to_array(item)
        for item in model.graph.initializer
        if item.data_type == onnx.TensorProto.FLOAT and len(item.dims) > 1
    }
    for initializer, values in tensors.items():
        named = sorted(weights, key=lambda name: name != initializer)
        for name in named:
            indexed = _as_stored(values, weights[name])
            if indexed is not None:
                found[initializer] = name, indexed
                break
    return found


def _as_stored(values: NDArray[Any], indexed: Indexed) -> Indexed | None:
    """The indices in the layout of the file's tensor, with a factor for each channel where there is one; None where it is another weight."""
    forms = [indexed]
    if values.ndim == 2:
        forms.append(replace(indexed, indices=indexed.indices.T, axis=None if indexed.axis is None else 1 - indexed.axis))
    for form in forms:
        if form.indices.shape == values.shape:
            for axis in (0, 1):
                scaled = _scaled(values, form, axis)
                if scaled is not None:
                    return scaled
    return None


def _scaled(values: NDArray[Any], form: Indexed, axis: int) -> Indexed | None:
    own = form.values().astype(np.float64)
    if np.array_equal(values, form.values()):
        return form
    if form.scale is not None and form.axis != axis:
        return None
    others = tuple(dim for dim in range(values.ndim) if dim != axis)
    power = np.square(own).sum(others)
    factor = np.where(power > 0, (values * own).sum(others) / np.where(power > 0, power, 1), 1.0).astype(np.float32)
    shape = [1] * values.ndim
    shape[axis] = -1
    scale = factor if form.scale is None else (factor * form.scale).astype(np.float32)
    made = replace(form, scale=scale, axis=axis)
    return made if np.abs(made.values() - values).max(initial=0) <= _ALIKE * np.abs(values).max(initial=0) else None
