"""Resize and Upsample, where torch's interpolation computes the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from engine.formats.onnx.importer.builder import Builder
from engine.formats.onnx.importer.reader import Op
from engine.formats.onnx.importer.values import Constant, Symbol, Value

_ROUNDINGS: dict[str, Callable[[Any], Any]] = {
    "ceil": np.ceil,
    "floor": np.floor,
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
}
_LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}


def resize(op: Op, build: Builder) -> Value:
    """Resize of the spatial dimensions by constant factors or to computed sizes."""
    rank = op.rank(0)
    sizes, scales = _target(op, build, rank)
    if rank not in _LINEAR or op.attribute("axes") is not None:
        op.fail("only the spatial dimensions of one to three can be resized")
    mode = _mode(op, build, rank, sizes, scales)
    if mode is None:
        return _nearest(op, build, sizes, scales)
    align = None if mode.startswith("nearest") else _coordinates(op) == "align_corners"
    if sizes is not None:
        antialias = bool(op.attribute("antialias", 0))
        return build.call(functional.interpolate, op.value(0), sizes, None, mode, align, antialias=antialias)
    assert scales is not None
    return build.activation(op, nn.Upsample(scale_factor=tuple(scales), mode=mode, align_corners=align, recompute_scale_factor=False))


def _nearest(op: Op, build: Builder, sizes: list[Any] | None, scales: list[float] | None) -> Value:
    """The place that each place of the result is copied from, by ONNX's formula; torch knows two of its many forms."""
    rounding, coordinates = _rounding(op), _coordinates(op)
    value = op.value(0)
    for dim in range(2, op.rank(0)):
        old, asked = build.size(value, dim), None if sizes is None else sizes[dim - 2]
        if not isinstance(old, int) or isinstance(asked, Symbol):
            op.fail(f"nearest with coordinates {coordinates} and rounding {rounding} on an open size")
        scale = scales[dim - 2] if asked is None and scales is not None else float(asked or 0) / old
        new = math.floor(old * scale) if asked is None else int(asked)
        x = np.arange(new, dtype=np.float64)
        if coordinates == "asymmetric":
            places = x / scale
        elif coordinates == "align_corners":
            places = x * (old - 1) / (new - 1) if new > 1 else x
        elif coordinates in ("half_pixel", "pytorch_half_pixel") and (coordinates == "half_pixel" or new > 1):
            places = (x + 0.5) / scale - 0.5
        else:
            op.fail(f"nearest with coordinates {coordinates}")
        turned = _ROUNDINGS[rounding](places)
        chosen = torch.from_numpy(np.clip(turned, 0, old - 1).astype(np.int64))
        value = build.call(torch.index_select, value, dim, Constant(chosen))
    return value


def _target(op: Op, build: Builder, rank: int) -> tuple[list[Any] | None, list[float] | None]:
    """Spatial sizes, or factors."""
    sizes = op.sizes(3) if op.type == "Resize" else None
    if sizes:
        unchanged = (build.size(op.value(0), dim) for dim in (0, 1))
        if any(isinstance(size, int) and isinstance(old, int) and size != old for size, old in zip(sizes, unchanged, strict=False)):
            op.fail("it resizes the batch or the channels")
        op.only(keep_aspect_ratio_policy="stretch")
        return sizes[2:], None
    if "scales" in op.attributes:
        scales = [float(item) for item in op.attribute("scales")]
    else:
        index = 2 if op.type == "Resize" and op.opset >= 11 else 1
        scales = [float(item) for item in op.known(index, "scales").reshape(-1).tolist()]
    if len(scales) != rank or scales[:2] != [1.0, 1.0]:
        op.fail("it resizes the batch or the channels")
    return None, scales[2:]


def _coordinates(op: Op) -> str:
    default = "half_pixel" if op.type == "Resize" and op.opset >= 11 else "asymmetric"
    return str(op.attribute("coordinate_transformation_mode", default))


def _mode(op: Op, build: Builder, rank: int, sizes: list[Any] | None, scales: list[float] | None) -> str | None:
    mode, coordinates = str(op.attribute("mode", "nearest")), _coordinates(op)
    if mode in ("linear", "cubic"):
        op.only(exclude_outside=0)
        allowed = ("half_pixel", "pytorch_half_pixel", "align_corners")
        if coordinates not in allowed or (
            mode == "cubic" and (rank != 4 or abs(float(op.attribute("cubic_coeff_a", -0.75)) + 0.75) > 1e-6)
        ):
            op.fail(f"mode {mode} with coordinates {coordinates}")
        return _LINEAR[rank] if mode == "linear" else "bicubic"
    rounding = _rounding(op)
    factors = _factors(op, build, sizes, scales)
    whole = factors is not None and all(factor >= 1 and float(factor).is_integer() for factor in factors)
    if (coordinates, rounding) == ("asymmetric", "floor") or (
        whole and rounding.startswith("round") and coordinates in ("half_pixel", "pytorch_half_pixel")
    ):
        return "nearest"
    if whole and coordinates == "asymmetric" and rounding == "round_prefer_floor" and factors is not None and max(factors) <= 2:
        return "nearest"
    if coordinates in ("half_pixel", "pytorch_half_pixel") and rounding == "round_prefer_ceil":
        return "nearest-exact"
    if rounding not in _ROUNDINGS:
        op.fail(f"nearest with rounding {rounding}")
    return None


def _rounding(op: Op) -> str:
    return str(op.attribute("nearest_mode", "round_prefer_floor" if op.opset >= 11 and op.type == "Resize" else "floor"))


def _factors(op: Op, build: Builder, sizes: list[Any] | None, scales: list[float] | None) -> list[float] | None:
    if sizes is None:
        return scales
    old = [build.size(op.value(0), 2 + dim) for dim in range(len(sizes))]
    if any(isinstance(size, Symbol) for size in (*sizes, *old)):
        return None
    return [size / before for size, before in zip(sizes, old, strict=True)]


OPERATORS = {"Resize": resize, "Upsample": resize}
