"""How one stored example becomes an example of a network's input: which axis goes where. Shapes only, no arrays.

The API asks before a job is accepted, the engine when both files are open.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from engine.contract.errors import EngineError
from engine.contract.metadata import DatasetMetadata, PreprocessingSpec

Shape = Sequence[int | None]
_SPATIAL = "DHW"
"""The order of spatial dimensions in a network's input; other letters (L, T) stand before them, as stored."""


@dataclass(frozen=True)
class Arrangement:
    """What is done to the axes of one stored example."""

    order: tuple[int, ...]
    """Stored axes in their new order."""
    arranged: tuple[int, ...]
    """Sizes after that, axes of size one added."""
    letters: str | None
    """What the sizes in `arranged` are, where the layout says it: C, H, W …"""
    shape: tuple[int, ...]
    """Shape of the example that the network takes: `arranged`, or flattened."""

    def channel_axis(self, count: int) -> int | None:
        """The axis that has `count` channels, the first one before the last; None where neither has."""
        return next((axis for axis in (0, -1) if self.arranged and self.arranged[axis] == count), None)


FED = frozenset({"float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"})
"""Types of inputs that arrays of a dataset become."""


def check_type(name: str, dtype: str) -> None:
    """Raises `shape_mismatch` where no dataset can feed an input of the type."""
    if dtype not in FED:
        hint = "export the network with float32 inputs and outputs (`module.float()`)" if "float" in dtype else None
        raise EngineError("shape_mismatch", f"Input {name!r} of the model is {dtype}, which no dataset can feed.", hint=hint)


def check_unscaled(spec: PreprocessingSpec, name: str, dtype: str) -> None:
    """Raises `dataset_invalid` for a preprocessing that changes the values of an input of integers."""
    if not dtype.startswith("float") and (spec.scale, spec.mean, spec.std) != (1.0, 0.0, 1.0):
        raise EngineError(
            "dataset_invalid", f"Input {name!r} is {dtype}: scale, mean and std would change its values.", hint="Leave them out."
        )


def check_kind(column: str, stored: str, name: str, dtype: str) -> None:
    """Raises `dataset_invalid` for an array of fractions where the input `name` takes integers; `stored` and `dtype` are names of types."""
    if stored.startswith(("float", "longdouble")) and "int" in dtype:
        raise EngineError("dataset_invalid", f"{column} is {stored}, but input {name!r} takes {dtype}.", hint="Store integers.")


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


def preprocessing_of_only(metadata: DatasetMetadata) -> PreprocessingSpec | None:
    """What is stated for the input of a dataset that has one, such as a table: for all inputs, or by its name."""
    stated = metadata.preprocessing
    if not isinstance(stated, dict):
        return stated
    return next(iter(stated.values())) if len(stated) == 1 else None


def arrange(spec: PreprocessingSpec, stored: tuple[int, ...], name: str, target: Shape) -> Arrangement:
    """How an example of shape `stored` becomes one of the input `name`, whose shape `target` has the batch first.

    Tried in turn until the network's input is met: channels first, channels last, as stored, flattened.
    Raises `shape_mismatch` where nothing meets it, `dataset_invalid` where mean and std have other numbers than channels.
    """
    order, axes = _axes(spec.layout, stored, name, target)
    arranged = tuple(1 if source is None else stored[source] for source in axes)
    flat = (math.prod(arranged),)
    flattened = spec.layout is not None and not _fits(arranged, target) and _fits(flat, target)
    letters = None if spec.layout is None else "".join("C" if source is None else spec.layout[1:][source] for source in axes)
    found = Arrangement(tuple(order), arranged, letters, flat if flattened else arranged)
    if not _fits(found.shape, target):
        raise _mismatch(found.shape, stored, name, target, spec.layout)
    for word, stated in (("mean", spec.mean), ("std", spec.std)):
        if isinstance(stated, tuple) and len(stated) != 1 and found.channel_axis(len(stated)) is None:
            channels = f"{arranged[0]} (or {arranged[-1]}, if they stand last)" if arranged else "no"
            raise EngineError(
                "dataset_invalid",
                f"preprocessing.{word} has {len(stated)} numbers, but input {name!r} has {channels} channels.",
                hint="Give one number for all channels, or one for each.",
            )
    return found


def _axes(layout: str | None, stored: tuple[int, ...], name: str, target: Shape) -> tuple[list[int], list[int | None]]:
    """How stored axes are ordered, and which of them (None: a new axis of size one) each axis is after that."""
    if layout is None:
        return list(range(len(stored))), list(range(len(stored)))
    letters = layout[1:]
    if len(letters) != len(stored):
        raise EngineError(
            "shape_mismatch",
            f"Layout {layout} names {len(layout)} dimensions, but the arrays of input {name!r} have {len(stored) + 1}: (N, {_text(stored)}).",
            hint="Name each stored dimension with one letter, N first.",
        )
    spatial: list[int | None] = [*sorted((i for i, one in enumerate(letters) if one != "C"), key=lambda i: _SPATIAL.find(letters[i]))]
    channel: list[int | None] = [letters.index("C")] if "C" in letters else [None]
    orders: list[list[int | None]] = [channel + spatial, spatial + channel, [*range(len(letters))]]
    orders += [spatial] if "C" not in letters else []
    chosen = next((order for order in orders if _fits([1 if i is None else stored[i] for i in order], target)), orders[0])
    return [i for i in chosen if i is not None], chosen


def _fits(shape: Sequence[int], target: Shape) -> bool:
    return len(shape) == len(target) - 1 and all(want in (None, have) for have, want in zip(shape, target[1:], strict=True))


def _mismatch(shape: tuple[int, ...], stored: tuple[int, ...], name: str, target: Shape, layout: str | None) -> EngineError:
    wanted = ", ".join("?" if size is None else str(size) for size in target[1:])
    hint = "Set metadata.preprocessing.layout to the meaning of the stored dimensions, such as NHW, NHWC or NCHW."
    if len(shape) == 1 and len(target) == 2:
        hint = (
            "Choose the model that was made for such examples; of a table, name its columns in metadata.table.features and targets; "
            "of texts, state metadata.text.length."
        )
    if layout is not None:
        hint = "Resize the examples, or choose the model that was made for them."
        if math.prod(shape) == math.prod(size or 1 for size in target[1:]):
            hint = f"The sizes are those of another order: layout {layout} may be wrong. {hint}"
    return EngineError(
        "shape_mismatch",
        f"Input {name!r} of the model takes examples of shape ({wanted}), the dataset's are ({_text(stored)})"
        + (f", with layout {layout} ({_text(shape)})." if layout else "."),
        hint=hint,
        details={"input": name, "model_shape": list(target[1:]), "dataset_shape": list(stored)},
    )


def _text(shape: Sequence[int]) -> str:
    return ", ".join(str(size) for size in shape)
