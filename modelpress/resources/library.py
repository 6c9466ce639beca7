"""Models and datasets, as `core.library.models.body` and `core.library.datasets.body` render them."""

from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict

from engine.contract.errors import JobError
from modelpress.resources.common import Resource


class TensorInfo(Resource):
    """One input or output; null in the shape is a dimension left open, the first one the batch."""

    name: str
    shape: list[int | None]
    dtype: str


class Signature(Resource):
    """What goes in and what comes out."""

    inputs: list[TensorInfo]
    outputs: list[TensorInfo]


class Lineage(Resource):
    """Where a promoted artifact came from."""

    artifact_id: str | None
    job_id: str | None
    model_id: str | None


class Input(Resource):
    """What models and datasets have in common."""

    id: str
    name: str
    format: str
    metadata: dict[str, Any]
    """As it was declared with the upload."""
    size_bytes: int
    sha256: str
    status: Literal["inspecting", "ready", "invalid"]
    """`inspecting` until a sandboxed process has read the file; jobs may be submitted meanwhile."""
    error: JobError | None
    created_at: datetime
    urls: dict[str, str]


class Model(Input):
    """An uploaded neural network; what was found in it is null until it has been inspected."""

    object: Literal["model"]
    labels: dict[str, str] = {}
    """The client's own pairs, to find it by. (Names of classes stand in `metadata.labels`.)"""
    signature: Signature | None
    params_count: int | None
    nonzero_params_count: int | None
    macs_count: int | None
    """Multiply-accumulate operations for one example."""
    activation_bytes: int | None = None
    """What training keeps of one example from its forward to its backward pass; null where that is not known, or it cannot be trained."""
    opset: int | None
    operators: dict[str, int] | None
    trainable: bool | None
    untrainable_reason: str | None
    lineage: Lineage


class Layer(Resource):
    """One layer of a model."""

    model_config = ConfigDict(extra="allow")

    name: str
    type: str
    input_shape: list[int | None] | None
    output_shape: list[int | None] | None
    params_count: int | None
    """Null where its weights are packed in a form that is not counted."""
    macs_count: int | None
    prunable: bool
    quantizable: bool
    unprunable_reason: str | None = None
    unquantizable_reason: str | None = None
    channels_prunable: bool | None = None
    """Whether channels of its output can be removed; null where that is not known, or it has none."""
    channels_reason: str | None = None
    """Why not."""
    removable_units_count: int | None = None
    """The most channels, heads or units that can be removed, each with what hangs on it: one always stays."""
    tied_layers: list[str] | None = None
    """Layers that lose the same channels with it."""


class Split(Resource):
    """One split of a dataset."""

    model_config = ConfigDict(extra="allow")

    examples_count: int


class Leak(Resource):
    """Examples of two splits whose inputs are the same byte for byte."""

    splits: list[str]
    examples_count: int
    """Examples of the second split that stand in the first one, too."""
    of_count: int
    """All examples of the second split."""
    examples: list[list[int]]
    """The first of them: their numbers in either split."""


class Standardization(Resource):
    """By feature, in their order."""

    mean: list[float]
    std: list[float]


class Dataset(Input):
    """Uploaded examples; what was found in them is null until they have been inspected."""

    object: Literal["dataset"]
    tags: dict[str, str] = {}
    """The client's own pairs, to find it by: what requests call `labels`, a name that says here whether there are targets."""
    splits: dict[str, Split] | None
    columns: list[TensorInfo] | None
    classes: list[Any] | None
    labels: bool | None
    histogram: dict[str, dict[str, int]] | None = None
    """Examples of each class, by split and class; null where targets number no classes, or more than 1,000."""
    leaks: list[Leak] | None = None
    """Pairs of splits that share examples."""
    notes: list[str] | None = None
    """What people should know about it, such as texts that were cut, or examples that stand in two splits."""
    standardization: Standardization | None = None
    """What `standardize: train` fitted: a network in use has to be fed (value - mean) / std."""


class Preview(Resource):
    """The first examples of each split."""

    object: Literal["preview"]
    dataset_id: str
    splits: dict[str, list[dict[str, Any]]]
