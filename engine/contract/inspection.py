"""What an upload was found to be: the results of the inspection jobs."""

from typing import Any

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from engine.contract.heads import Head


class _Found(BaseModel):
    """Numbers that are not finite are null in JSON: the file itself may hold them."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class TensorInfo(_Found):
    """One input, output or column; None in the shape is a dimension left open, the first one the batch."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


class SignatureInfo(_Found):
    """What goes in and what comes out."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


class LayerInfo(_Found):
    """One layer, and what can be done to it."""

    name: str
    type: str
    input_shape: tuple[int | None, ...] | None
    output_shape: tuple[int | None, ...] | None
    params_count: int | None
    macs_count: int | None
    prunable: bool
    quantizable: bool
    unprunable_reason: str | None = None
    unquantizable_reason: str | None = None
    channels_prunable: bool | None = None
    """Whether channels of its output can be removed; None where that is not known, or it has none."""
    channels_reason: str | None = None
    removable_units_count: int | None = None
    """The most channels, heads or units that can be removed, each with what hangs on it: one always stays."""
    tied_layers: tuple[str, ...] | None = None
    """Layers that lose the same channels with it."""


class PairInspection(_Found):
    """What a model and a dataset are to each other."""

    split: str
    """Of the dataset, on which the model was tried."""
    examples_count: int
    outputs: tuple[Head, ...]
    """How each output is read, and why."""
    metrics: dict[str, float]
    """Against the targets, by `<split>.<metric>` and `<split>.<metric>.<output>`."""
    unused_targets: dict[str, str]
    """Targets that no output is compared with, and why."""
    near_chance: tuple[str, ...]
    """Outputs that do no better than answers that do not look at the input; none is good."""
    notes: tuple[str, ...]


class OpenSizes(_Found):
    """How a model was counted whose signature leaves sizes open, beside that of the batch."""

    inputs: dict[str, tuple[int, ...]]
    """Shape of one example of each input."""
    macs_count: int | None
    """Multiply-accumulates that it takes."""


class ModelInspection(_Found):
    """What stands in a model's file."""

    signature: SignatureInfo
    params_count: int | None
    nonzero_params_count: int | None
    macs_count: int | None
    activation_bytes: int | None = None
    """What training keeps of one example from its forward to its backward pass; None where that is not known, or it cannot be trained."""
    opset: int | None = None
    operators: dict[str, int] = {}
    trainable: bool
    untrainable_reason: str | None
    layers: tuple[LayerInfo, ...]
    settings: tuple[str, ...] | None = None
    """Of a file that this service published with several settings: their names. It is read as the first one, which it runs as; the others
    are promoted to models, or cut out with `modelpress.runtime`."""
    open_sizes: OpenSizes | None = None
    """Where sizes are open: those for which layers and activations were counted."""
    pair: PairInspection | None = None
    """Where it was looked at together with a dataset."""

    @model_serializer(mode="wrap")
    def _without_dataset(self, write: SerializerFunctionWrapHandler) -> dict[str, object]:
        return _without(write(self), "pair", "settings", "open_sizes")


class SplitInfo(_Found):
    """One split of a dataset."""

    examples_count: int
    labelled: bool


class ArrayPreview(_Found):
    """One array of one example."""

    minimum: float | int | None
    maximum: float | int | None
    mean: float | None
    values: Any = None
    """All of them, where they are few; left out otherwise."""

    @model_serializer(mode="wrap")
    def _without_many(self, write: SerializerFunctionWrapHandler) -> dict[str, object]:
        return _without(write(self), "values")


class ExamplePreview(_Found):
    """One example."""

    index: int
    label: int | None
    inputs: dict[str, ArrayPreview]
    targets: dict[str, ArrayPreview] | None = None
    """Where they are something else than the number of a class."""

    @model_serializer(mode="wrap")
    def _without_classes(self, write: SerializerFunctionWrapHandler) -> dict[str, object]:
        return _without(write(self), "targets")


Histogram = dict[str, dict[str, int]]
"""Examples of each class, by split and by the name (else the number) of the class."""


class Leak(_Found):
    """Examples of two splits whose inputs are the same byte for byte."""

    splits: tuple[str, str]
    examples_count: int
    """Examples of the second split that stand in the first one, too."""
    of_count: int
    """All examples of the second split."""
    examples: tuple[tuple[int, int], ...]
    """The first of them: their numbers in either split."""


class StandardizationInfo(_Found):
    """What was fitted on the training examples: a network in use has to be fed (value - mean) / std."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class DatasetInspection(_Found):
    """What stands in a dataset's file."""

    splits: dict[str, SplitInfo]
    columns: tuple[TensorInfo, ...]
    classes: tuple[int | str, ...] | None
    labels: bool
    """Whether every split has targets."""
    preview: dict[str, tuple[ExamplePreview, ...]]
    histogram: Histogram | None = None
    """Where targets number up to 1,000 classes."""
    leaks: tuple[Leak, ...] = ()
    notes: tuple[str, ...] = ()
    standardization: StandardizationInfo | None = None
    """Where `standardize` asked for it."""


INSPECTIONS: dict[str, type[ModelInspection] | type[DatasetInspection]] = {
    "inspect_model": ModelInspection,
    "inspect_dataset": DatasetInspection,
}
"""By the kind of the job that finds them."""


def _without(written: dict[str, object], *keys: str) -> dict[str, object]:
    return {name: value for name, value in written.items() if name not in keys or value is not None}
