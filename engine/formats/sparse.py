"""A compact safetensors file for weights that are mostly zero: one bit per weight, and what is needed to know the kept ones.

A dense tensor stands under its own name. Every other tensor `name` has `name.bitmask` (uint8, row-major, the first weight in the
highest bit) and, after its encoding in the metadata:

* `values`: `name.values`, the kept weights in row-major order;
* `signs`: `name.signs`, one bit per kept weight (1: negative), all of one magnitude, `constant`;
* `seeded`: nothing more; the weights are `deviation` · numpy.random.RandomState(seed).standard_normal(), whose stream NumPy keeps
  frozen, or their sign times `constant` where that is given.

All encodings but `values` may name a `scale`, a factor on the kept weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from engine.contract.errors import EngineError
from engine.contract.limits import MAX_TENSOR_ELEMENTS
from engine.formats.safetensors.header import sort_metadata

FORMAT = "modelpress.sparse/1"
Encoding = dict[str, Any]
"""How one tensor is stored, as it stands in the metadata of the file."""

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
    )
}
"""Types that may be stored sparsely; others are stored dense."""


@dataclass(frozen=True)
class Recipe:
    """How the kept weights of one tensor come about, where it takes less than their values."""

    keep: Tensor
    """Boolean, of the tensor's shape."""
    encoding: Literal["signs", "seeded"]
    constant: float | None = None
    """Magnitude of all kept weights."""
    seed: int | None = None
    deviation: float | None = None
    scale: float = 1.0


def seeded_normal(seed: int, shape: tuple[int, ...], deviation: float) -> Tensor:
    """Normal float32 weights that the same seed gives for ever."""
    return torch.from_numpy((np.random.RandomState(seed).standard_normal(shape) * deviation).astype(np.float32))


def signed(weights: Tensor, constant: float) -> Tensor:
    """Weights of one magnitude with the signs of `weights`; zero counts as positive."""
    magnitude = torch.full_like(weights, constant)
    return torch.where(weights < 0, -magnitude, magnitude)


def save_sparse(path: Path, state: Mapping[str, Tensor], recipes: Mapping[str, Recipe] | None = None) -> None:
    """Write a state dict; without a recipe a tensor is stored as bitmask and values where that is smaller than dense."""
    tensors: dict[str, Tensor] = {}
    about: dict[str, Encoding] = {}
    for name, tensor in state.items():
        value = tensor.detach().cpu().contiguous()
        recipe = (recipes or {}).get(name)
        keep = _nonzero(value) if recipe is None else recipe.keep.cpu()
        stated: Encoding = {"encoding": "values"}
        if recipe is not None:
            stated = {key: item for key, item in asdict(recipe).items() if key != "keep" and item is not None}
            if recipe.encoding == "signs":
                tensors[f"{name}.signs"] = _pack(value[keep] < 0)
        elif math.ceil(keep.numel() / 8) + int(keep.sum()) * value.element_size() < value.nbytes:
            tensors[f"{name}.values"] = value[keep].contiguous()
        else:
            tensors[name] = value.clone()
            continue
        tensors[f"{name}.bitmask"] = _pack(keep)
        about[name] = {**stated, "shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    save_file(tensors, path, metadata={"format": FORMAT, "tensors": json.dumps(about, sort_keys=True)})
    sort_metadata(path)


def load_sparse(path: Path) -> dict[str, Tensor]:
    """The state dict of a file that `save_sparse` wrote, bit by bit. Raises `model_invalid` where the file contradicts itself."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise _invalid(str(error)) from error
    return decode_sparse(stored, metadata)


def decode_sparse(stored: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """The state dict behind the tensors and the metadata of a sparse file; dense tensors pass."""
    if metadata.get("format") != FORMAT:
        raise _invalid(f"its metadata does not name the format {FORMAT}")
    rest = dict(stored)
    state = {}
    try:
        for name, about in json.loads(metadata["tensors"]).items():
            state[name] = _decode(name, about, rest)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise _invalid(f"{type(error).__name__}: {error}") from error
    return state | rest


def _decode(name: str, about: Encoding, stored: dict[str, Tensor]) -> Tensor:
    shape = tuple(int(size) for size in about["shape"])
    if math.prod(shape) > MAX_TENSOR_ELEMENTS:
        raise EngineError("tensor_limit_exceeded", f"{name} has {math.prod(shape)} elements, more than {MAX_TENSOR_ELEMENTS}.")
    dtype = _DTYPES[about["dtype"]]
    keep = _unpack(stored.pop(f"{name}.bitmask"), math.prod(shape))
    result = torch.zeros(math.prod(shape), dtype=dtype)
    if about["encoding"] == "values":
        result[keep] = stored.pop(f"{name}.values")
        return result.reshape(shape)
    if about["encoding"] == "signs":
        negative = _unpack(stored.pop(f"{name}.signs"), int(keep.sum()))
        kept = signed(torch.where(negative, -1.0, 1.0), about["constant"])
    elif about["encoding"] == "seeded":
        kept = seeded_normal(about["seed"], shape, about["deviation"]).reshape(-1)[keep]
        kept = kept if "constant" not in about else signed(kept, about["constant"])
    else:
        raise ValueError(f"unknown encoding {about['encoding']!r} of {name}")
    result[keep] = (kept * about["scale"]).to(dtype)
    return result.reshape(shape)


def _nonzero(value: Tensor) -> Tensor:
    """What has to be stored: everything but positive zero, and all of a type that is not stored sparsely."""
    if value.dtype not in _DTYPES.values():
        return torch.ones_like(value, dtype=torch.bool)
    return (value != 0) | torch.signbit(value)


def _pack(bits: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(bits.numpy().reshape(-1)))


def _unpack(packed: Tensor, count: int) -> Tensor:
    if packed.dtype != torch.uint8 or packed.numel() != math.ceil(count / 8):
        raise ValueError(f"{packed.numel()} bytes of bits for {count} weights")
    return torch.from_numpy(np.unpackbits(packed.numpy(), count=count).astype(bool))


def _invalid(why: str) -> EngineError:
    return EngineError("model_invalid", f"This is no readable sparse weights file: {why}.", hint="Upload the file as it was published.")
