"""From stored arrays to what the network's input expects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.contract.errors import EngineError
from engine.contract.metadata import DatasetMetadata, PreprocessingSpec
from engine.data.pictures import Picture
from engine.networks.network import TensorSpec

Array = npt.NDArray[Any]
_DTYPES = {"float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"}
_SPATIAL = "DHW"
"""The order of spatial dimensions in a network's input; other letters (L, T) stand before them, as stored."""


def preprocessing_of(metadata: DatasetMetadata, inputs: Sequence[str]) -> dict[str, PreprocessingSpec]:
    """The preprocessing of each input. Raises `dataset_invalid` where the metadata names an input that is not there."""
    stated = metadata.preprocessing
    if not isinstance(stated, dict):
        return dict.fromkeys(inputs, stated or PreprocessingSpec())
    if unknown := sorted(set(stated) - set(inputs)):
        raise EngineError(
            "dataset_invalid",
            f"metadata.preprocessing names {unknown[0][:80]!r}, which is no input of the model.",
            hint=f"Inputs: {', '.join(inputs)}; or give one object for all of them: scale, mean, std, layout.",
        )
    return {name: stated.get(name, PreprocessingSpec()) for name in inputs}


class Preprocessing:
    """A prepared `PreprocessingSpec`: batch of stored values (n, ...) to batch of the input's layout and type."""

    def __init__(self, spec: PreprocessingSpec, stored: tuple[int, ...], target: TensorSpec) -> None:
        """`stored` is the shape of one example as stored. Raises `shape_mismatch` where it cannot become `target`."""
        if target.dtype not in _DTYPES:
            raise EngineError("shape_mismatch", f"Input {target.name!r} of the model is {target.dtype}, which no dataset can feed.")
        self.dtype = np.dtype(target.dtype)
        self.scalar = target.shape == ()
        """Whether the input is one number for a whole batch, such as a sampling rate."""
        if self.scalar:
            target = TensorSpec(target.name, (None, *([1] * len(stored))), target.dtype)
        floating = self.dtype.kind == "f"
        self._order, arranged = _arrange(spec.layout, stored, target)
        self._arranged = tuple(1 if source is None else stored[source] for source in arranged)
        flat = (math.prod(self._arranged),)
        flattened = spec.layout is not None and not _fits(self._arranged, target) and _fits(flat, target)
        self.shape = flat if flattened else self._arranged
        _check_shape(self.shape, stored, target, spec.layout)
        if not floating and (spec.scale, spec.mean, spec.std) != (1.0, 0.0, 1.0):
            raise EngineError(
                "dataset_invalid",
                f"Input {target.name!r} is {target.dtype}: scale, mean and std would change its values.",
                hint="Leave them out.",
            )
        mean, std = (_per_channel(item, self._arranged, name, target) for item, name in ((spec.mean, "mean"), (spec.std, "std")))
        factor, offset = np.asarray(spec.scale / std, dtype=np.float32), np.asarray(-mean / std, dtype=np.float32)
        self._plain = not floating or (bool((factor == 1).all()) and bool((offset == 0).all()))
        self._factor, self._offset = factor, offset
        letters = None if spec.layout is None else "".join("C" if source is None else spec.layout[1:][source] for source in arranged)
        self.picture = Picture.of(letters, self._arranged, factor, offset, spec.scale) if floating and not self.scalar else None
        """How the input shows a picture; None where it shows none."""

    def __call__(self, stored: Array) -> Array:
        """The batch, contiguous."""
        moved = stored.transpose((0, *(1 + axis for axis in self._order))).reshape((len(stored), *self._arranged))
        if not self._plain:
            moved = np.multiply(moved, self._factor, dtype=np.float32)
            moved += self._offset
        ready = np.ascontiguousarray(moved, dtype=self.dtype).reshape((len(stored), *self.shape))
        return np.asarray(ready.reshape(-1)[0]) if self.scalar else ready


def _arrange(layout: str | None, stored: tuple[int, ...], target: TensorSpec) -> tuple[list[int], list[int | None]]:
    """How stored axes are ordered, and which of them (None: a new axis of size one) each axis is after that.

    Tried in turn until the network's input is met: channels first, channels last, as stored.
    """
    if layout is None:
        return list(range(len(stored))), list(range(len(stored)))
    letters = layout[1:]
    if len(letters) != len(stored):
        raise EngineError(
            "shape_mismatch",
            f"Layout {layout} names {len(layout)} dimensions, but the arrays of input {target.name!r} have {len(stored) + 1}: (N, {_text(stored)}).",
            hint="Name each stored dimension with one letter, N first.",
        )
    spatial: list[int | None] = [*sorted((i for i, one in enumerate(letters) if one != "C"), key=lambda i: _SPATIAL.find(letters[i]))]
    channel: list[int | None] = [letters.index("C")] if "C" in letters else [None]
    orders: list[list[int | None]] = [channel + spatial, spatial + channel, [*range(len(letters))]]
    orders += [spatial] if "C" not in letters else []
    chosen = next((order for order in orders if _fits([1 if i is None else stored[i] for i in order], target)), orders[0])
    return [i for i in chosen if i is not None], chosen


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


def _per_channel(stated: float | tuple[float, ...], shape: tuple[int, ...], name: str, target: TensorSpec) -> npt.NDArray[np.float64]:
    """A number, or numbers shaped to stand beside the channels: the first axis of an example, or the last where only that fits."""
    if isinstance(stated, int | float):
        return np.array(float(stated))
    values = np.array(stated, dtype=np.float64)
    if shape and len(values) == shape[0]:
        return values.reshape((-1, *[1] * (len(shape) - 1)))
    if len(values) == 1 or (shape and len(values) == shape[-1]):
        return values
    channels = f"{shape[0]} (or {shape[-1]}, if they stand last)" if shape else "no"
    raise EngineError(
        "dataset_invalid", f"preprocessing.{name} has {len(values)} numbers, but input {target.name!r} has {channels} channels."
    )
