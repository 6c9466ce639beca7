"""Parameters of the ensemble of a generalist and specialists."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from engine.contract.cost import NOTHING, Cost, Facts
from engine.contract.method import MethodParams, Reference, Requires
from engine.contract.params import OpenRatio, Ratio, TrainingRun

ClassNumber = Annotated[int, Field(ge=0)]


class IntoOne(TrainingRun):
    """Training of one network on the combined answers. Give `epochs` or `iterations`."""

    temperature: float = Field(4.0, gt=0, le=1000)
    """Temperature that softens both networks' answers."""
    alpha: Ratio = 0.9
    """Weight of the combined answers; the labels get the rest."""


class Specialists(MethodParams, TrainingRun):
    """Beside the network, the generalist, train copies of it that tell classes apart which it confuses, and combine their answers.

    The classes are clustered by the covariance of the generalist's answers. A specialist gives probabilities of the classes of its cluster
    and of all others together (its dustbin class); it begins as the generalist and is trained on as many examples of its classes as of
    others, which is made up for afterwards. The combined answer q minimizes KL(generalist ‖ q) + Σ KL(specialist ‖ q) over the
    specialists that know one of the generalist's most probable classes. The result is one file that computes all of this, larger and
    slower by the number of specialists; with `distil` one network of the old size that has learned from it.
    """

    title: ClassVar[str] = "Generalist and specialists"
    requires: ClassVar[Requires] = Requires(dataset=True, labels=True)
    references: ClassVar[tuple[Reference, ...]] = (
        Reference(
            title="Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, 2015, section 5",
            url="https://arxiv.org/abs/1503.02531",
        ),
    )
    examples: ClassVar = (
        {"method": "specialists", "count": 2, "epochs": 2},
        {"method": "specialists", "clusters": [[0, 1], [2, 3]], "epochs": 1, "distil": {"epochs": 2}},
    )

    method: Literal["specialists"] = "specialists"
    count: int = Field(4, ge=1, le=256)
    """Clusters of classes; those of a single class get no specialist."""
    clusters: tuple[tuple[ClassNumber, ...], ...] = Field((), max_length=256)
    """The classes of each specialist, instead of clusters that are looked for; they may overlap."""
    temperature: float = Field(4.0, gt=0, le=1000)
    """Softens the generalist's answers of which the covariance is taken: those of training examples are mostly too sure."""
    special_share: OpenRatio = 0.5
    """Share of a specialist's training examples that are of its own classes."""
    active_classes: int = Field(1, ge=1, le=100)
    """A specialist takes part where one of this many most probable classes of the generalist is its own."""
    distil: IntoOne | None = None
    """Train a copy of the generalist on the combined answers; it is the result then, and the ensemble is an artifact beside it."""

    def cost(self, facts: Facts) -> Cost:
        """Each specialist's training, a look at all training examples, and the training of the one network."""
        specialists = len(self.clusters) or self.count
        if self.iterations is not None:
            training = self.training_cost(facts).times(specialists)
        else:
            # The examples of clusters are parts of the whole, each with others beside it.
            training = self.training_cost(facts).times(min(specialists, 1 / self.special_share))
        looked = Cost(read_examples=facts.train_examples)
        if self.distil is None:
            return training + looked
        into_one = self.distil.training_cost(facts)
        again = self.distil.augment is not None
        passes = into_one.trained_examples if again else min(into_one.trained_examples, facts.train_examples)
        return training + looked + into_one + (Cost(read_examples=(1 + specialists) * passes) if passes else NOTHING)

    @model_validator(mode="after")
    def _consistent(self) -> "Specialists":
        for number, cluster in enumerate(self.clusters):
            if len(set(cluster)) != len(cluster) or len(cluster) < 2:
                raise ValueError(f"clusters[{number}] has to name two different classes or more")
        return self
