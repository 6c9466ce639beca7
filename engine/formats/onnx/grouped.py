"""Weights in groups of their own scale and zero point (MatMulNBits, GatherBlockQuantized): how many of them stand for something but zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

_WHOLE_BITS = (2, 4, 8)
"""Of which a byte holds a whole number."""


def nonzero_in_groups(node: onnx.NodeProto, inputs: tuple[str, ...], constants: Mapping[str, onnx.TensorProto]) -> int | None:
    """Weights of a node that differ from the zero point of their group; None where the file does not say, or in a way not known here.

    Args:
        node: A MatMulNBits or GatherBlockQuantized.
        inputs: Names of its inputs among the constants.
        constants: All of the graph's.
    """
    count = {"MatMulNBits": _of_product, "GatherBlockQuantized": _of_lookup}[node.op_type]
    set_by = {item.name: int(item.i) for item in node.attribute}
    tensors = [constants.get(name) if name else None for name in inputs]
    if any(name and tensor is None for name, tensor in zip(inputs[3:4], tensors[3:4], strict=True)):
        return None  # computed zero points
    arrays = [None if tensor is None else onnx.numpy_helper.to_array(tensor) for tensor in tensors]
    try:
        return count(set_by, [*arrays, None, None, None])
    except ValueError:  # of another layout
        return None


def _of_product(set_by: Mapping[str, int], arrays: list[Any]) -> int | None:
    """Low bits first, each group in whole bytes, the last one filled up; so are the zero points of a row. Without any they are the middle."""
    bits, size = set_by.get("bits", 4), set_by["block_size"]
    outputs, inputs = set_by["N"], set_by["K"]
    weights, zeros = arrays[1], arrays[3]
    groups = -(-inputs // size)
    if bits not in _WHOLE_BITS or weights is None:
        return None
    numbers = split_bytes(weights.reshape(outputs, groups, -1), bits)
    if zeros is None:
        points: Any = 1 << (bits - 1)
    elif zeros.dtype == np.uint8:
        points = split_bytes(zeros.reshape(outputs, -1), bits)[:, :groups, None]
    else:
        points = zeros.reshape(outputs, groups, 1)
    return int(np.count_nonzero((numbers != points).reshape(outputs, -1)[:, :inputs]))


def _of_lookup(set_by: Mapping[str, int], arrays: list[Any]) -> int | None:
    """One number an element; zero points stand beside the groups along one dimension."""
    numbers, zeros = arrays[0], arrays[3]
    if numbers is None or zeros is None or (numbers.dtype == np.uint8 and set_by.get("bits", 4) != 8):
        return None
    axis, size = set_by.get("quantize_axis", 1), set_by.get("block_size", 128)
    points = np.repeat(zeros.astype(np.int16), size, axis=axis).take(range(numbers.shape[axis]), axis=axis)
    return int(np.count_nonzero(numbers.astype(np.int16) != points))


def split_bytes(stored: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """The numbers that each byte of the last dimension holds, the lowest bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    parts = (stored[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return parts.reshape(*stored.shape[:-1], -1)
