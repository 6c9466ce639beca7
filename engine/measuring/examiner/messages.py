"""What a job asks of the process that scores, compares and times its files, and what that process answers: one JSON line each."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from engine.contract.errors import JobError
from engine.contract.figures import Record, Timing
from engine.contract.heads import Head
from engine.contract.metadata import DatasetMetadata, ModelMetadata
from engine.contract.report import ClassChange
from engine.networks.network import Signature


class ExaminedDataset(Record):
    """The uploaded examples."""

    path: Path
    format: str
    metadata: DatasetMetadata = DatasetMetadata()


class ExampleSource(Record):
    """Where inputs come from: a split of the dataset, or random inputs where there is none."""

    dataset: ExaminedDataset | None
    signature: Signature
    split: str
    seed: int
    work: Path
    """Takes arrays that have to be inflated."""
    added: dict[str, float] = {}
    """What stands in inputs of the file that the dataset does not have, because a step added them."""


class Score(Record):
    """Metrics of one file on all examples."""

    metrics: dict[str, float]
    """By `<split>.<name>`."""
    examples_count: int
    counted: dict[str, int] = {}
    """By output that has targets: the examples among them with a target that counts."""
    heads: tuple[Head, ...] = ()
    """How the outputs were read."""
    unused_targets: dict[str, str] = {}
    """Targets of the dataset that no output was compared with, and why."""
    notes: tuple[str, ...] = ()
    """What else was seen when the meaning of the outputs was found, in sentences."""
    near_chance: tuple[str, ...] = ()
    """Of the baseline: outputs that do no better than answers that do not look at the input, each with its figures in a sentence."""
    shapes: dict[str, tuple[int, ...]]
    """Shape of one example of each input."""
    classes: tuple[ClassChange, ...] = ()
    """How many examples of each class the baseline and the file get right; empty for the baseline itself."""


class ScoreRequest(Record):
    """Score one file; the answer is a `Score`."""

    do: Literal["score"] = "score"
    file: Path
    baseline: Path
    """What fidelity compares with; the same file for the baseline itself."""
    outputs: Path
    """A folder for the baseline's outputs."""
    source: ExampleSource
    heads: tuple[Head, ...] | None = None
    """How the outputs are read; None where it is to be found."""
    declared: ModelMetadata = ModelMetadata()
    """What the model's owner declared about its outputs."""
    metrics: tuple[str, ...] = ()
    """Metrics that the spec names."""
    usual: bool = True
    """Whether those that are usual for the outputs' tasks are measured as well."""
    batch_size: int
    """Examples at once, at most."""
    exact_batch: bool = False
    """Whether just so many, because what the file gives depends on it."""
    threads: int
    optimized: bool = True
    """Whether the runtime may put integer kernels into the file; without, it computes in float what the file says."""


class TimingRequest(Record):
    """Time two files in turns; the answer is one `Timing` a batch size."""

    do: Literal["time"] = "time"
    baseline: Path
    result: Path
    source: ExampleSource
    batch_sizes: tuple[int, ...]
    repeats: int
    threads: int
    varied: bool = False
    """Whether every run has inputs of its own, because one of the files computes more for one input than for another."""


class CountRequest(Record):
    """Count what a file computes for the examples; the answer is a `Counted`."""

    do: Literal["count"] = "count"
    file: Path
    source: ExampleSource
    batch_size: int
    threads: int


class Counted(Record):
    """Multiply-accumulates of a file."""

    macs_count: float | None
    """Mean over the examples; None where an operator cannot be counted."""


class Waits(Record):
    """No request: the parent does nothing until the next answer."""

    do: Literal["waits"] = "waits"
    answered: int
    """How many requests had been answered when it began to wait; the note is late where there are more."""


class CompareRequest(Record):
    """Run a file on stored inputs and compare with stored outputs (npz files); the answer is a `Difference`."""

    do: Literal["compare"] = "compare"
    file: Path
    names: tuple[str, ...]
    """Names of the inputs, in the order of the arrays."""
    inputs: Path
    expected: Path
    threads: int


class Difference(Record):
    """How far the outputs of a file are from the expected ones."""

    max_abs_difference: float | None
    """None where a difference is not finite."""
    max_abs_value: float


class ProfileRequest(Record):
    """Profile one file on one input; the answer is the share of the time by the name of each node."""

    do: Literal["profile"] = "profile"
    file: Path
    source: ExampleSource
    threads: int
    p50_ms: float
    """How long one run takes, which says how many there are."""


class DigestRequest(Record):
    """Digest every tensor of a file of weights; the answer is one `TensorDigest` by name."""

    do: Literal["digest"] = "digest"
    file: Path
    format: str


class TensorDigest(Record):
    """Shape of a tensor, and the sha256 of its bytes."""

    shape: tuple[int, ...]
    sha256: str


Request = Annotated[
    ScoreRequest | TimingRequest | CountRequest | CompareRequest | ProfileRequest | DigestRequest, Field(discriminator="do")
]
REQUEST: TypeAdapter[Request] = TypeAdapter(Request)
SCORE: TypeAdapter[Score] = TypeAdapter(Score)
TIMINGS: TypeAdapter[tuple[Timing, ...]] = TypeAdapter(tuple[Timing, ...])
COUNTED: TypeAdapter[Counted] = TypeAdapter(Counted)
DIFFERENCE: TypeAdapter[Difference] = TypeAdapter(Difference)
SHARES: TypeAdapter[dict[str, float]] = TypeAdapter(dict[str, float])
DIGESTS: TypeAdapter[dict[str, TensorDigest]] = TypeAdapter(dict[str, TensorDigest])


class Answer(Record):
    """One line of the process: what it found, or what went wrong."""

    found: Any = None
    error: JobError | None = None
