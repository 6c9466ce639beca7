"""From stored arrays to what the network's input expects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from engine.errors import EngineError
from engine.metadata import PreprocessingSpec
from engine.network import TensorSpec

Array = npt.NDArray[Any]


def read_preprocessing(metadata: Mapping[str, Any], inputs: Sequence[str]) -> dict[str, PreprocessingSpec]:
    """The preprocessing of each input: one object for all, or an object of objects by input name."""
    stated = metadata.get("preprocessing") or {}
    if not isinstance(stated, dict):
        raise EngineError("dataset_invalid", "metadata.preprocessing is not an object.", hint='Like {"scale": 0.00392, "layout": "NHWC"}.')
    by_input = bool(stated) and set(stated) <= set(inputs) and all(isinstance(item, dict) for item in stated.values())
    try:
        return {name: PreprocessingSpec.model_validate(stated.get(name, {}) if by_input else stated) for name in inputs}
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in ("metadata", "preprocessing", *first["loc"]))
        raise EngineError("dataset_invalid", f"{where}: {first['msg']}.", hint="Fields: scale, mean, std, layout.") from error


class Preprocessing:
    """A prepared `PreprocessingSpec`: batch of stored values (n, ...) to batch of the input's layout and type."""

    def __init__(self, spec: PreprocessingSpec, stored: tuple[int, ...], target: TensorSpec) -> None:
        """`stored` is the shape of one example as stored. Raises `shape_mismatch` where it cannot become `target`."""
        self.dtype = np.dtype("float32" if target.dtype == "bfloat16" else target.dtype)
        floating = self.dtype.kind == "f"
        self._order, self._insert = _arrange(spec.layout, stored, target)
        self.shape = tuple(1 if source is None else stored[source] for source in self._insert)
        _check_shape(self.shape, stored, target, spec.layout)
        if not floating and (spec.scale, spec.mean, spec.std) != (1.0, 0.0, 1.0):
            raise EngineError(
                "dataset_invalid",
                f"Input {target.name!r} is {target.dtype}: scale, mean and std would change its values.",
                hint="Leave them out.",
            )
        channels = self.shape[0] if self.shape else 1
        last = len(self.shape) - 1
        mean, std = (_per_channel(item, channels, last, name, target) for item, name in ((spec.mean, "mean"), (spec.std, "std")))
        factor, offset = np.asarray(spec.scale / std, dtype=np.float32), np.asarray(-mean / std, dtype=np.float32)
        self._plain = not floating or (bool((factor == 1).all()) and bool((offset == 0).all()))
        self._factor, self._offset = factor, offset

    def __call__(self, stored: Array) -> Array:
        """The batch, contiguous."""
        moved = stored.transpose((0, *(1 + axis for axis in self._order))).reshape((len(stored), *self.shape))
        if self._plain:
            return np.ascontiguousarray(moved, dtype=self.dtype)
        result = np.multiply(moved, self._factor, dtype=np.float32)
        result += self._offset
        return np.ascontiguousarray(result, dtype=self.dtype)


def _arrange(layout: str | None, stored: tuple[int, ...], target: TensorSpec) -> tuple[list[int], list[int | None]]:
    """How stored axes are ordered, and which of them (None: a new axis of size one) each target axis is."""
    if layout is None:
        return list(range(len(stored))), list(range(len(stored)))
    letters = layout[1:]
    if len(letters) != len(stored):
        raise EngineError(
            "shape_mismatch",
            f"Layout {layout} names {len(layout)} dimensions, but the arrays of input {target.name!r} have {len(stored) + 1}: (N, {_text(stored)}).",
            hint="Name each stored dimension with one letter, N first.",
        )
    rank = len(target.shape) - 1
    if "C" in letters:
        order = [letters.index("C"), *(index for index, letter in enumerate(letters) if letter != "C")]
        channels_last = (
            rank == len(letters)
            and _fits([stored[i] for i in range(len(stored))], target)
            and not _fits([stored[i] for i in order], target)
        )
        order = list(range(len(letters))) if channels_last else order
    else:
        order = list(range(len(letters)))
    insert: list[int | None] = list(order)
    if "C" not in letters and rank == len(letters) + 1:
        insert = [None, *order] if target.shape[1] in (1, None) or target.shape[-1] != 1 else [*order, None]
    return order, insert


def _fits(shape: Sequence[int], target: TensorSpec) -> bool:
    return len(shape) == len(target.shape) - 1 and all(want in (None, have) for have, want in zip(shape, target.shape[1:], strict=True))


def _check_shape(shape: tuple[int, ...], stored: tuple[int, ...], target: TensorSpec, layout: str | None) -> None:
    if _fits(shape, target):
        return
    wanted = ", ".join("?" if size is None else str(size) for size in target.shape[1:])
    hint = "Set metadata.preprocessing.layout to the meaning of the stored dimensions, such as NHW, NHWC or NCHW."
    raise EngineError(
        "shape_mismatch",
        f"Input {target.name!r} of the model takes examples of shape ({wanted}), the dataset's are ({_text(stored)})"
        + (f", with layout {layout} ({_text(shape)})." if layout else "."),
        hint=hint if layout is None else "Resize the examples, or choose the model that was made for them.",
        details={"input": target.name, "model_shape": list(target.shape[1:]), "dataset_shape": list(stored)},
    )


def _text(shape: Sequence[int]) -> str:
    return ", ".join(str(size) for size in shape)


def _per_channel(stated: float | tuple[float, ...], channels: int, last: int, name: str, target: TensorSpec) -> npt.NDArray[np.float64]:
    """A number, or numbers shaped to stand beside the channels: the first axis of an example, or the last where only that fits."""
    if isinstance(stated, int | float):
        return np.array(float(stated))
    values = np.array(stated, dtype=np.float64)
    tail = target.shape[-1] if last >= 0 else None
    if len(values) == channels:
        return values.reshape((-1, *[1] * last))
    if len(values) in (1, tail):
        return values
    raise EngineError(
        "dataset_invalid", f"preprocessing.{name} has {len(values)} numbers, but input {target.name!r} has {channels} channels."
    )
