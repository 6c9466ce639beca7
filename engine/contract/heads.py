"""How the outputs of a network are read: which task each one does, where its classes are, what it is compared with. Loads no numpy."""

from typing import Literal

from pydantic import Field

from engine.contract.params import Params

Scale = Literal["logits", "probabilities"]


class Head(Params):
    """One output of a network, or several that one task reads together.

    Outputs with a `class_axis` hold one score for each class, of which the largest is the answer. Those with a `threshold` hold
    decisions that are independent of each other, each a yes above it. All others are plain values.
    """

    name: str
    """Of the output; of the task, where it reads several outputs."""
    indices: tuple[int, ...] = Field(min_length=1)
    """Places among the network's outputs."""
    task: str
    """File name of the task in `engine/tasks`."""
    target: str | None = None
    """Name of its array among the targets of a split; None where there is none to compare it with."""
    from_input: str | None = None
    """Name of the input that its targets are made of, such as the tokens that a language model continues."""
    class_axis: int | None = Field(None, ge=1)
    """Dimension of the output that counts the classes, the batch being 0."""
    classes_count: int | None = Field(None, ge=1)
    threshold: float | None = None
    """0 for logits, 0.5 for probabilities."""
    labels_axis: int | None = Field(None, ge=1)
    """Dimension of decisions that counts labels, each of which is found or not by itself; None where every decision is the same question."""
    scale: Scale | None = None
    """Whether scores are probabilities already, so that a softmax or sigmoid must not be put on top; None: seen from the values."""
    ignored: int | None = None
    """The class number of places that do not count."""
    weight: float = Field(1.0, ge=0)
    """Of its loss among those of the other heads."""
    declared: bool = False
    """Whether the model's metadata declares it, or it was inferred."""
    reason: str = ""
    """How that was found, for people."""

    @property
    def index(self) -> int:
        """Place of its (first) output."""
        return self.indices[0]

    @property
    def has_targets(self) -> bool:
        """Whether there is something to train it on, beside what another network gives."""
        return self.target is not None or self.from_input is not None

    @property
    def decides(self) -> bool:
        """Whether its answer is a class or a yes or no."""
        return self.class_axis is not None or self.threshold is not None
