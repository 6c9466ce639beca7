"""Parameters of skip_routing."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from engine.contract.cost import NOTHING, Cost, Facts
from engine.contract.figures import MOST_SETTINGS
from engine.contract.method import Effect, MethodParams, Reference, Requires
from engine.contract.params import LayerChoice, OpenRatio, Ratio, TrainingFields, TrainingRun

Alpha = Annotated[float, Field(ge=0, le=1000)]


class SkipRouting(MethodParams, LayerChoice):
    """SkipNet: gates in front of the residual blocks decide, input by input, which of them run.

    Gates and network are trained together first, with decisions that are hard forward and soft backward; then, for each of `alphas`, by
    hybrid reinforcement learning, in which every skipped block is a reward. Each pair of an alpha and a threshold is a setting: an
    ONNX file in which a block stands in an If and runs for those examples of a batch that take it. MACs and latencies are means over
    real inputs.
    """

    title: ClassVar[str] = "Skipped residual blocks (SkipNet)"
    requires: ClassVar[Requires] = Requires(dataset=True, labels=True)
    effect: ClassVar[Effect] = Effect(dense_latency="faster")
    references: ClassVar[tuple[Reference, ...]] = (
        Reference(
            title="Wang et al., SkipNet: Learning Dynamic Routing in Convolutional Networks, ECCV 2018",
            url="https://arxiv.org/abs/1711.09485",
        ),
        Reference(
            title="Williams, Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning, 1992",
            url="https://doi.org/10.1007/BF00992696",
        ),
        Reference(
            title="Kool et al., Buy 4 REINFORCE Samples, Get a Baseline for Free, 2019", url="https://openreview.net/forum?id=r1lgTGL5DE"
        ),
    )
    examples: ClassVar = (
        {"method": "skip_routing", "supervised": {"iterations": 4}, "reinforcement": {"iterations": 4}},
        {
            "method": "skip_routing",
            "gate": "feedforward_2",
            "alphas": [0.5, 2],
            "thresholds": [0.4, 0.6],
            "supervised": {"iterations": 2},
            "reinforcement": {"iterations": 2, "learning_rate": 0.01},
            "cost_of_a_block": "macs",
            "controls": ["full", "supervised", "random", "shuffled"],
        },
    )
    forbids_next: ClassVar = {"*": "Its blocks run for some inputs only, which later steps cannot follow. Put skip_routing last."}

    method: Literal["skip_routing"] = "skip_routing"
    gate: Literal["recurrent", "feedforward_1", "feedforward_2"] = "recurrent"
    """`recurrent`: channel means, a linear map and one LSTM that all gates share; `feedforward_1`: pooling and two 3×3 convolutions;
    `feedforward_2`: one with stride, for deep networks."""
    embedding_size: int = Field(10, ge=1, le=1024)
    """Numbers that a recurrent gate sees of the features."""
    hidden_size: int = Field(10, ge=1, le=1024)
    """Size of the recurrent gates' state."""
    gate_bias: float = Field(2.0, ge=-20, le=20)
    """Bias of the gates at the start: 2 lets about 88 % of the blocks run. Gates that start closed learn nothing any more."""
    skip_first: bool = False
    """Whether the first block may be skipped as well; in the paper it always runs."""
    supervised: TrainingRun = TrainingRun(epochs=10)
    """Training of network and gates together, before the rewards."""
    reinforcement: TrainingRun = TrainingRun(epochs=5, learning_rate=1e-4)
    """Hybrid reinforcement learning, once for each of `alphas`, from where the supervised training ended."""
    alphas: tuple[Alpha, ...] = Field((0.1,), min_length=1, max_length=16)
    """Rewards for skipping all blocks, in the unit of the loss; the first is the job's result. Larger ones skip more."""
    thresholds: tuple[OpenRatio, ...] = Field((0.5,), min_length=1, max_length=16)
    """A block runs where its gate's probability is above this. Each one is tried with each alpha."""
    anneal: Ratio = 0.0
    """Share of the reinforcement over which alpha rises from zero. While it is small the loss alone pays, which opens gates that are not yet
    sure; with a large alpha, that may keep them from closing before they have learned which."""
    starting_logit: float = Field(1.0, gt=0, le=20)
    """Supervised training leaves gates so sure of running their blocks that reinforcement would never try anything else: before it, the log
    odds of each kind of gate are scaled down to this mean size (1: chances of about 0.27 and 0.73), by which no decision changes."""
    exploration: float = Field(0.1, ge=0, le=100)
    """What an open decision earns: this times alpha times the mean entropy of the decisions, which keeps gates from becoming sure too early."""
    cost_of_a_block: Literal["blocks", "macs"] = "blocks"
    """What skipping a block is worth: `blocks` the same for each, as in the paper, `macs` in proportion to its multiply-accumulates."""
    policy_weight: float = Field(1.0, gt=0, le=1000)
    """Factor on the policy's gradient (the authors' code has 0.01)."""
    loss_weight: float = Field(1.0, ge=0, le=1000)
    """β: weight of the prediction loss in what a decision is paid by."""
    baseline: Literal["none", "batch_mean"] = "batch_mean"
    """What is subtracted from a decision's reward: nothing, or the mean reward of the other examples of the batch, which leaves the
    expected gradient as it is and makes it less noisy."""
    controls: tuple[Literal["full", "supervised", "random", "shuffled"], ...] = ()
    """Measured besides, to see what the routing is worth: `full` every block runs, `supervised` the network before reinforcement, both
    as settings; `random` blocks skipped at random at the same rate, `shuffled` every example with another's route, both in the report."""

    @model_validator(mode="after")
    def _few_settings(self) -> "SkipRouting":
        count = len(self.alphas) * len(self.thresholds) + len(self.controls)
        if count > MOST_SETTINGS:
            raise ValueError(f"alphas × thresholds make {count} settings; up to {MOST_SETTINGS} are measured")
        for name in ("alphas", "thresholds", "controls"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"{name} holds a value twice")
        return self

    @property
    def trainings(self) -> tuple[TrainingFields, ...]:
        """All of them, in order."""
        return (self.supervised, *[self.reinforcement] * len(self.alphas))

    def cost(self, facts: Facts) -> Cost:
        """All trainings."""
        return sum((training.training_cost(facts) for training in self.trainings), NOTHING)
