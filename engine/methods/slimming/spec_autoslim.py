"""Parameters of the search for the width of every layer."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from engine.contract.cost import MASKED_COPIES, NOTHING, Cost, Facts
from engine.contract.method import Effect, MethodParams, Reference, Requires
from engine.contract.params import Budget, Finetune, OpenRatio
from engine.methods.slimming.spec_slimmable import SlimmableParams, Width


class AutoSlim(MethodParams, SlimmableParams):
    """Find the width of every layer for a budget: train a slimmable supernet, slim it greedily, and train what was found.

    The supernet learns any width between `smallest` and all channels by the sandwich rule. Then, again and again, some channels of each
    layer are taken away in turn, batch normalization is measured anew, and the layer goes whose loss costs least on examples that were held
    out, until the budget is met. Epochs and learning rate are those of the supernet; behind a `slimmable` step with `universal`, which has
    trained one already, `epochs: 0` takes it as it is.
    """

    title: ClassVar[str] = "AutoSlim"
    requires: ClassVar[Requires] = Requires(dataset=True, labels=True)
    effect: ClassVar[Effect] = Effect(file_size="smaller", dense_latency="faster")
    references: ClassVar[tuple[Reference, ...]] = (
        Reference(
            title="Yu, Huang, AutoSlim: Towards One-Shot Architecture Search for Channel Numbers, 2019",
            url="https://arxiv.org/abs/1903.11728",
        ),
    )
    examples: ClassVar = ({"method": "autoslim", "budget": {"macs_ratio": 0.5}, "step": 0.25, "epochs": 5, "finetune": {"epochs": 5}},)

    method: Literal["autoslim"] = "autoslim"
    budget: Budget
    """What the network may still cost, as a share of what it costs at first. Latency is measured on this worker's CPU, in turns."""
    smallest: Width = 0.15
    """Smallest share of its channels that a layer may be left with (one channel or head at least), and the smallest width that the supernet is trained at."""
    samples: int = Field(4, ge=3, le=16)
    """Widths of one step of the supernet's training."""
    step: OpenRatio = 0.1
    """Share of a layer's channels that is taken away at once."""
    examples_count: int = Field(1000, ge=16, le=100_000)
    """Held-out examples on which losses are compared, and training examples on which batch normalization is measured, at most."""
    start: Literal["supernet", "new"] = "supernet"
    """What the found network begins with: the supernet's weights, or new ones, as the authors do."""
    finetune: Finetune | None = None
    """Training of the found network; needed to begin with new weights."""

    @property
    def share_left(self) -> float:
        """The budget."""
        return self.budget.share

    def cost(self, facts: Facts) -> Cost:
        """The supernet, the tries, and the found network as if it were as large as before."""
        supernet = self.training_cost(facts).times(1 + (self.samples - 1) / 3)
        tries = facts.layers_count * facts.layers_count * (1 - self.smallest) / self.step / 2
        read = Cost(read_examples=tries * 2 * min(self.examples_count, facts.train_examples), copies=MASKED_COPIES)
        return supernet + read + (self.finetune.training_cost(facts) if self.finetune else NOTHING)

    @model_validator(mode="after")
    def _consistent(self) -> "AutoSlim":
        if self.start == "new" and self.finetune is None:
            raise ValueError("new weights have to be trained: give finetune")
        if self.smallest >= 1:
            raise ValueError("smallest is less than 1: nothing could be slimmed")
        return self
