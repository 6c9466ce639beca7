"""Pictures that are read at computed places: GridSample and AffineGrid."""

from __future__ import annotations

import torch
from torch.nn import functional

from engine.formats.onnx.importer.builder import Builder
from engine.formats.onnx.importer.reader import Op
from engine.formats.onnx.importer.values import Constant, Value

_MODES = {"linear": "bilinear", "bilinear": "bilinear", "nearest": "nearest", "cubic": "bicubic", "bicubic": "bicubic"}


def grid_sample(op: Op, build: Builder) -> Value:
    """GridSample of two or three spatial dimensions."""
    mode = _MODES[str(op.attribute("mode", "linear"))]
    rank = op.rank(0)
    if rank not in (4, 5) or (mode == "bicubic" and rank == 5):
        op.fail(f"mode {mode!r} of {rank - 2} dimensions")
    padding, align = str(op.attribute("padding_mode", "zeros")), bool(op.attribute("align_corners", 0))
    return build.call(functional.grid_sample, op.value(0), op.value(1), mode, padding, align)


def affine_grid(op: Op, build: Builder) -> Value:
    """AffineGrid: the places of a regular grid, each times the matrix of its example."""
    sizes, align = op.sizes(1), bool(op.attribute("align_corners", 0))
    if sizes is None or not all(isinstance(size, int) for size in sizes[2:]):
        op.fail("the size of its grid is open")
    spatial = [int(size) for size in sizes[2:]]
    # A line of one place, with aligned corners, stands at its end in ONNX Runtime, in the middle in torch.
    lines = [torch.linspace(1, -1, size).flip(0) if align else (torch.arange(size) * 2 + 1) / size - 1 for size in spatial]
    places = torch.meshgrid(*lines, indexing="ij")
    base = torch.stack([*reversed(places), torch.ones(spatial)], -1).reshape(-1, len(spatial) + 1)
    grid = build.call(torch.matmul, Constant(base), build.call("transpose", op.value(0), 1, 2))
    return build.call("unflatten", grid, 1, tuple(spatial))


OPERATORS = {"AffineGrid": affine_grid, "GridSample": grid_sample}
