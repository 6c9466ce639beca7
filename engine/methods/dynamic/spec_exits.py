"""Parameters of early exits."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from engine.contract.cost import MASKED_COPIES, Cost, Facts
from engine.contract.method import Effect, MethodParams, Reference, Requires
from engine.contract.params import LayerPattern, NotAPercentage, OpenRatio, Params, TrainingRun

ConfidenceKind = Literal["max_probability", "margin", "entropy"]
Budget = Annotated[float, Field(gt=0, le=1), NotAPercentage]
"""A share of the multiply-accumulates of the whole network."""
_HELD_OUT = 0.1
"""Share of the training examples that is taken for validation where there is no such split; a guess for the cost only."""


class SelfDistillation(Params):
    """Earlier exits learn from the last one, besides the targets."""

    alpha: OpenRatio = 0.5
    """Weight of the last exit's answers; the targets get the rest."""
    temperature: float = Field(3.0, gt=0, le=1000)
    """Temperature that softens both exits' answers."""


class EarlyExit(MethodParams, TrainingRun):
    """Answer easy inputs early: classifiers on the way, trained together with the network, each of which may be the last that is computed.

    The architecture `msdnet` has such classifiers. To any other network they are attached, at positions that are named or chosen by
    multiply-accumulates. All exits are trained on the sum of their losses. How sure an exit must be for the network to stop there is
    calibrated on validation examples that nothing was trained on, one list of thresholds for each budget of multiply-accumulates.

    Published are one ONNX file a budget that really stops (batches too: what has not stopped goes on, and nothing else), one a fixed
    exit, and the stages with their thresholds for `modelpress.runtime`.
    """

    title: ClassVar[str] = "Early exits"
    requires: ClassVar[Requires] = Requires(dataset=True, labels=True)
    effect: ClassVar[Effect] = Effect(dense_latency="faster")
    references: ClassVar[tuple[Reference, ...]] = (
        Reference(
            title="Huang et al., Multi-Scale Dense Networks for Resource Efficient Image Classification, ICLR 2018",
            url="https://arxiv.org/abs/1703.09844",
        ),
        Reference(title="Teerapittayanon, McDanel, Kung, BranchyNet, ICPR 2016", url="https://arxiv.org/abs/1709.01686"),
        Reference(title="Zhang et al., Be Your Own Teacher, ICCV 2019", url="https://arxiv.org/abs/1905.08094"),
        Reference(title="Guo et al., On Calibration of Modern Neural Networks, ICML 2017", url="https://arxiv.org/abs/1706.04599"),
    )
    examples: ClassVar = (
        {"method": "early_exit", "epochs": 2},
        {"method": "early_exit", "exits": 1, "backbone": "keep", "budgets": [0.9], "confidence": "margin", "iterations": 10},
    )
    forbids_next: ClassVar = {"*": "the exits are trained and their thresholds calibrated on this very network; put early_exit last"}

    method: Literal["early_exit"] = "early_exit"
    positions: Annotated[tuple[LayerPattern, ...], Field(max_length=16)] | Literal["auto"] = "auto"
    """Layers after which an exit is attached, from first to last, each by name or pattern (after the last layer that it names, and the
    normalization, activation and sum behind it); `auto` spreads `exits` evenly over the multiply-accumulates. For `msdnet`: `auto`."""
    exits: int = Field(2, ge=1, le=16)
    """How many exits are attached where `positions` is `auto`, besides the network's own end."""
    head: Literal["auto", "linear", "conv"] = "auto"
    """What an attached exit is made of: `linear` (mean over all places, linear layer), `conv` (before it, two 3×3 convolutions of
    stride 2 with normalization and ReLU); `auto`: `conv` on feature maps of at least 4×4, with so few channels that an exit costs at most
    a tenth of the network, else `linear`."""
    head_channels: int = Field(64, ge=1, le=2048)
    """Channels of the convolutions of an attached exit; the most of them where `head` is `auto`."""
    backbone: Literal["train", "keep"] = "train"
    """`train`: all exits and the network together; `keep`: only what is attached, so that the last exit stays what was given."""
    loss_weights: tuple[Annotated[float, Field(ge=0, le=1000)], ...] | None = None
    """Weight of each exit's loss, the last exit's included; by default 1 each."""
    self_distillation: SelfDistillation | None = None
    """Let earlier exits learn from the last one; by default from the targets alone."""
    confidence: ConfidenceKind = "max_probability"
    """What tells how sure an exit is: the probability of its answer (in log odds), its lead over the second answer, or the entropy."""
    temperature_scaling: bool = True
    """Fit one temperature an exit on the validation examples, so that the exits' confidences mean the same. Outputs stay as they are."""
    budgets: Annotated[tuple[Budget, ...], Field(max_length=30)] | Literal["auto"] = "auto"
    """Mean multiply-accumulates an example, as shares of those of the given network. One setting each, in this order: the first is the
    job's result. `auto`: three, spread evenly between the first exit's and the last one's."""
    anytime: bool = True
    """Publish every exit as a setting, too: the network that always stops there."""
    controls: tuple[Literal["random_exits"], ...] = ()
    """`random_exits`: accuracy where as many examples leave at each exit, but random ones."""

    def cost(self, facts: Facts) -> Cost:
        """One training, and one pass over the validation examples."""
        return self.training_cost(facts) + Cost(read_examples=_HELD_OUT * facts.train_examples, copies=MASKED_COPIES)

    @model_validator(mode="after")
    def _consistent(self) -> "EarlyExit":
        if self.positions != "auto" and not self.positions:
            raise ValueError("name at least one position, or leave it at auto")
        if self.budgets != "auto" and len(set(self.budgets)) != len(self.budgets):
            raise ValueError("each budget is given once")
        if self.budgets == () and not self.anytime:
            raise ValueError("give at least one budget, or anytime: true")
        if self.loss_weights is not None:
            if not any(self.loss_weights):
                raise ValueError("at least one of loss_weights is above 0")
            if self.positions != "auto" and len(self.loss_weights) != len(self.positions) + 1:
                raise ValueError("loss_weights has one entry for each of positions, and one for the network's own end")
        return self
