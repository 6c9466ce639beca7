"""Parameters of the pruning methods that find filters to remove while they train."""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from engine.contract.cost import NOTHING, Cost, Facts
from engine.contract.method import Effect, MethodParams, Reference, Requires
from engine.contract.params import Finetune, LayerChoice, OpenRatio, TrainingRun


class SoftFilterPruning(MethodParams, LayerChoice, TrainingRun):
    """Train, and set the filters with the smallest norm to zero after every epoch; they may come back in the next one.

    What is zero at the end is really removed, as in `structured_pruning`. Filters that residual connections tie together are ranked
    and zeroed together, because only then can they be removed.
    """

    title: ClassVar[str] = "Soft filter pruning"
    requires: ClassVar[Requires] = Requires(dataset=True, labels=True)
    effect: ClassVar[Effect] = Effect(file_size="smaller", dense_latency="faster")
    references: ClassVar[tuple[Reference, ...]] = (
        Reference(
            title="He et al., Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks, IJCAI 2018",
            url="https://arxiv.org/abs/1808.06866",
        ),
    )
    examples: ClassVar = ({"method": "soft_filter_pruning", "pruning_ratio": 0.3, "epochs": 10},)

    whole_run: ClassVar[str | None] = "filters that are zero now and then have no average, and what is zero at the end is removed"

    method: Literal["soft_filter_pruning"] = "soft_filter_pruning"
    pruning_ratio: OpenRatio = 0.3
    """Share of each layer's filters that is zeroed; one minus the paper's rate."""
    importance: Literal["magnitude_l1", "magnitude_l2"] = "magnitude_l2"
    """Norm by which filters are ranked."""
    every_epochs: int = Field(1, ge=1, le=100_000)
    """Filters are zeroed after this many epochs, and after the last one."""
    min_channels: int = Field(1, ge=1, le=65_536)
    """No layer keeps fewer channels than this."""
    finetune: Finetune | None = None
    """Tuning of the smaller network after the removal; the paper needs none."""

    @property
    def share_left(self) -> float:
        """All but the share that is removed."""
        return 1 - self.pruning_ratio

    def cost(self, facts: Facts) -> Cost:
        """The training and the tuning."""
        return self.training_cost(facts) + (self.finetune.training_cost(facts) if self.finetune else NOTHING)


Structure = Literal["neuron", "group", "block"]


class SparseStructureSelection(MethodParams, LayerChoice, TrainingRun):
    """Train with a factor on every structure and an L1 penalty on the factors; structures whose factor becomes exactly zero go.

    Accelerated proximal gradient moves the factors, so that they reach zero itself: nothing has to be thresholded, and the removal
    changes nothing that the network computes. How much goes follows from the penalty, not from a ratio.

    With the defaults, 3 epochs and `finetune: {epochs: 2}`, the digit network of `examples/` lost 48 % of its multiply-accumulate
    operations and 71 % of its parameters, at a top-1 accuracy of 98.45 % before tuning and 99.02 % after it (99.06 % at first; seed 0).
    Twice the penalty took 81 % and 88 %, for 98.12 %.
    """

    title: ClassVar[str] = "Sparse structure selection"
    requires: ClassVar[Requires] = Requires(dataset=True, labels=True)
    effect: ClassVar[Effect] = Effect(file_size="smaller", dense_latency="faster")
    references: ClassVar[tuple[Reference, ...]] = (
        Reference(
            title="Huang, Wang, Data-Driven Sparse Structure Selection for Deep Neural Networks, ECCV 2018",
            url="https://arxiv.org/abs/1707.01213",
        ),
    )
    examples: ClassVar = (
        {"method": "sparse_structure_selection", "epochs": 3, "finetune": {"epochs": 2}},
        {"method": "sparse_structure_selection", "structures": ["neuron", "block"], "penalty": 0.02, "optimizer": "adamw", "epochs": 3},
    )

    whole_run: ClassVar[str | None] = "an average over factors that become zero is not zero, and what is zero at the end is removed"

    method: Literal["sparse_structure_selection"] = "sparse_structure_selection"
    structures: tuple[Structure, ...] = Field(("neuron",), min_length=1, max_length=3)
    """What gets factors: `neuron` (channels and neurons), `group` (groups of grouped convolutions), `block` (residual blocks, of which
    the shortcut stays)."""
    penalty: float = Field(0.01, gt=0, le=1000)
    """Weight of the L1 penalty on the factors, γ in the paper: what the loss must gain from a structure for it to stay. A factor can only
    reach zero where the factors' rates of all steps, added up and multiplied by this, come to about one minus `structure_momentum`; the
    job warns where they do not."""
    structure_learning_rate: float | None = Field(None, gt=0, le=1000)
    """Peak rate of the factors' steps, on the same schedule as that of the weights. By default the `learning_rate` with `sgd`, as in the
    paper, and 0.05 with `adam` and `adamw`: their rates are no lengths of gradient steps, and far too small for one."""
    structure_momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of the accelerated proximal gradient."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """Optimizer of the weights. `adam` and `adamw` make the weights outgrow their shrinking factors, so that less goes for the same loss."""
    learning_rate: float = Field(0.05, gt=0, le=1000)
    """Peak learning rate of the weights, and with `sgd` of the factors. 0.001 by default for `adam` and `adamw`."""
    weight_decay: float = Field(1e-4, ge=0, le=10)
    """Weight decay, without which a weight that grows makes a shrinking factor harmless; never on the factors, biases and normalization."""
    min_channels: int = Field(1, ge=1, le=65_536)
    """No layer keeps fewer channels than this, even where more factors are zero."""
    finetune: Finetune | None = None
    """Tuning of the smaller network after the removal; the paper needs none."""

    def cost(self, facts: Facts) -> Cost:
        """The training and the tuning."""
        return self.training_cost(facts) + (self.finetune.training_cost(facts) if self.finetune else NOTHING)

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_optimizer(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("optimizer") in ("adam", "adamw"):
            return {"learning_rate": 1e-3, **data}
        return data

    @property
    def factor_rate(self) -> float:
        """Peak rate of the factors' steps."""
        if self.structure_learning_rate is not None:
            return self.structure_learning_rate
        return self.learning_rate if self.optimizer == "sgd" else 0.05

    @model_validator(mode="after")
    def _each_structure_once(self) -> "SparseStructureSelection":
        if len(set(self.structures)) != len(self.structures):
            raise ValueError("name every structure once")
        return self


class Sensitivity(MethodParams, LayerChoice):
    """Measure how much each layer bears: prune it alone, more and more, and look at the accuracy. The network stays as it is.

    The curves stand in the report. `structured_pruning` with `pruning_ratio: auto` draws the same ones and takes from every layer as
    much as its curve allows.
    """

    title: ClassVar[str] = "Sensitivity analysis"
    requires: ClassVar[Requires] = Requires(dataset=True, labels=True)
    references: ClassVar[tuple[Reference, ...]] = (
        Reference(
            title="Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, section 3.2", url="https://arxiv.org/abs/1608.08710"
        ),
        Reference(
            title="Han et al., Learning both Weights and Connections for Efficient Neural Networks, NeurIPS 2015",
            url="https://arxiv.org/abs/1506.02626",
        ),
    )
    examples: ClassVar = ({"method": "sensitivity", "unit": "channels"}, {"method": "sensitivity", "unit": "weights", "ratios": [0.5, 0.9]})

    method: Literal["sensitivity"] = "sensitivity"
    unit: Literal["channels", "weights"] = "channels"
    """What is pruned: whole channels with everything that they tie, or single weights by magnitude."""
    importance: Literal["magnitude_l1", "magnitude_l2", "group_norm", "fpgm", "random"] = "magnitude_l2"
    """How channels are ranked, as in `structured_pruning`. Single weights rank alike by either magnitude."""
    ratios: tuple[OpenRatio, ...] = Field((0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), min_length=1, max_length=100)
    """Shares of each layer's channels or weights that are pruned, one after the other."""
    examples_count: int = Field(1000, ge=1, le=1_000_000)
    """Validation examples that every point is measured on, at most; carved from the training split where there are none."""

    def cost(self, facts: Facts) -> Cost:
        """Every layer at every ratio, on examples that are at most as many as the training ones."""
        return Cost(read_examples=len(self.ratios) * facts.layers_count * min(self.examples_count, facts.train_examples))

    @model_validator(mode="after")
    def _consistent(self) -> "Sensitivity":
        if self.unit == "weights" and self.importance not in ("magnitude_l1", "magnitude_l2", "random"):
            raise ValueError(f"{self.importance} ranks channels; single weights are ranked by magnitude_l1, magnitude_l2 or random")
        return self
