"""What a client may declare about an upload: the `metadata` of `POST /v1/models` and `POST /v1/datasets`. Loads no numpy."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from engine.contract.audio import AudioSpec
from engine.contract.images import ImagesSpec
from engine.contract.masks import MasksSpec
from engine.contract.params import Params
from engine.contract.table import TableSpec
from engine.contract.text import SequencesSpec, TextSpec

Dimension = Annotated[int, Field(ge=1, le=2**31)] | Annotated[str, Field(min_length=1, max_length=64)] | None
Name = Annotated[str, Field(min_length=1, max_length=256)]
SPLITS = ("train", "validation", "test")
"""The parts of a dataset."""

NamedArchitecture = str | dict[str, Any]
"""A builtin architecture: its name, or `{"name": …, "params": {…}}`."""


class InputSpec(Params):
    """Name, shape and type of one input; a name or null in the shape is a dimension left open, the first one the batch."""

    name: Name
    shape: tuple[Dimension, ...] = Field(min_length=1, max_length=16)
    dtype: str = Field("float32", pattern=r"^[a-z]+[0-9]{0,2}$")


SELF_SUPERVISED = frozenset({"causal_lm"})
"""Tasks whose targets are made of the inputs, so that a dataset needs none."""


class OutputMeaning(Params):
    """What one output is, where that is not seen from its shape, its values and its targets."""

    name: Name
    """Of the output in the model."""
    task: str | None = Field(None, pattern=r"^[a-z][a-z0-9_]{0,62}$")
    """Such as `classification`, `binary`, `multi_label`, `regression`, `segmentation`, `token_classification`, `causal_lm`, `embedding`, or
    `fidelity` for anything that is to stay what it is; see `docs/tasks.md`."""
    class_axis: int | None = Field(None, ge=1, le=15)
    """Dimension that counts the classes, the batch being 0."""
    scale: Literal["logits", "probabilities"] | None = None
    """Whether its scores are probabilities already."""
    ignored: int | None = None
    """Class number of places that do not count, such as padding."""
    target: Name | None = None
    """Its targets in the dataset: `y`, or `y.<name>`; left out, those of its own name."""
    weight: float = Field(1.0, ge=0, le=1e6)
    """Of its loss among those of the other outputs."""


class ModelMetadata(Params):
    """What an uploaded network is, as far as the file itself does not state it."""

    architecture: NamedArchitecture | None = None
    """Builtin architecture that the weights belong to: its name, or `{"name": …, "params": {…}}`. Needed by formats that hold weights
    only; see `GET /v1/architectures`."""
    input_specs: tuple[InputSpec, ...] = Field((), max_length=64)
    """Inputs in order, where the file does not name them."""
    task: str | None = Field(None, pattern=r"^[a-z_]{1,64}$")
    """What the network is for: a task's name (see `outputs`), also at the end of a longer one such as `image_classification`. Left out, it
    is inferred; other names are shown and not interpreted."""
    outputs: tuple[OutputMeaning, ...] = Field((), max_length=64)
    """What single outputs are, where the network has several or inference would be wrong."""
    labels: tuple[Name, ...] = Field((), max_length=100_000)
    """Names of the classes, in the order of the outputs."""


class PreprocessingSpec(Params):
    """`metadata.preprocessing`: value = (stored · scale - mean) / std, then the layout of the network's input."""

    scale: float = 1.0
    """Factor on stored values before mean and std; 1/255 (0.00392156862745098) for bytes."""
    mean: float | tuple[float, ...] = 0.0
    """Subtracted after scaling: one number, or one a channel."""
    std: float | tuple[float, ...] = 1.0
    """Divided by after that: one number, or one a channel."""
    layout: str | None = Field(None, pattern=r"^N[A-Z]{0,7}$")
    """Meaning of the stored dimensions, one letter each: N examples, C channels, H height, W width, L or D length, as in NHWC, NCHW, NHW."""

    @field_validator("layout", mode="after")
    @classmethod
    def _once_each(cls, layout: str | None) -> str | None:
        if layout is not None and len(set(layout)) != len(layout):
            raise ValueError("each letter stands once")
        return layout

    @field_validator("std", mode="after")
    @classmethod
    def _not_zero(cls, std: float | tuple[float, ...]) -> float | tuple[float, ...]:
        if 0.0 in (std if isinstance(std, tuple) else (std,)):
            raise ValueError("0 cannot be divided by")
        return std


ONE, BY_INPUT = "(one)", "(by input)"
"""Tags of the two ways to state a preprocessing; they stand in the location of validation errors."""


def _by_input(value: Any) -> str:
    return (
        BY_INPUT
        if isinstance(value, dict) and value and all(isinstance(item, dict | PreprocessingSpec) for item in value.values())
        else ONE
    )


class DatasetMetadata(Params):
    """What stored arrays mean to a model."""

    preprocessing: (
        Annotated[
            Annotated[PreprocessingSpec, Tag(ONE)] | Annotated[dict[Name, PreprocessingSpec], Tag(BY_INPUT)], Discriminator(_by_input)
        ]
        | None
    ) = None
    """How stored values become the model's input: one object for all inputs, or an object of them by input name."""
    images: ImagesSpec | None = None
    """How the pictures of a zip of JPEG and PNG files become arrays."""
    masks: MasksSpec | None = None
    """What the values of masks beside pictures mean."""
    audio: AudioSpec | None = None
    """How the sounds of a zip of WAV files become arrays."""
    text: TextSpec | None = None
    """Which fields of JSON lines are what, and how texts become token numbers."""
    sequences: SequencesSpec | None = None
    """What becomes of sequences of different lengths in an npz file (`x_train_lengths`)."""
    table: TableSpec | None = None
    """Which columns of a table are what."""
    labels: tuple[Name, ...] = Field((), max_length=100_000)
    """Names of the classes, in the order of their numbers. Of class folders: left out, their names in alphabetical order."""
