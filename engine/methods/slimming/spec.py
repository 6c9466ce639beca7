"""Parameters of the slimming family: the width of a network is learned from its batch normalization, or several widths share one file."""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from engine.contract.cost import NOTHING, Cost, Facts
from engine.contract.method import Effect, MethodParams, Reference, Requires
from engine.contract.params import Finetune, LayerChoice, OpenRatio, TrainingRun
from engine.methods.slimming.spec_autoslim import AutoSlim
from engine.methods.slimming.spec_slimmable import Slimmable

__all__ = ["AutoSlim", "NetworkSlimming", "Slimmable"]


class NetworkSlimming(MethodParams, LayerChoice, TrainingRun):
    """Train with an L1 penalty on the scales of batch normalization, and remove the channels whose scales have become the smallest.

    The penalty pushes the scales of channels that the network can do without towards zero. Channels that residual connections,
    concatenations or depthwise convolutions tie together are removed together, and no layer is ever emptied. A network whose
    normalization was folded into its convolutions at export has no scales: upload it with them, or set `insert_normalization`.
    """

    title: ClassVar[str] = "Network slimming"
    requires: ClassVar[Requires] = Requires(dataset=True, labels=True)
    effect: ClassVar[Effect] = Effect(file_size="smaller", dense_latency="faster")
    references: ClassVar[tuple[Reference, ...]] = (
        Reference(
            title="Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017",
            url="https://arxiv.org/abs/1708.06519",
        ),
    )
    examples: ClassVar = (
        {
            "method": "network_slimming",
            "pruning_ratio": 0.5,
            "penalty": 0.001,
            "insert_normalization": True,
            "epochs": 5,
            "finetune": {"epochs": 3},
        },
        {
            "method": "network_slimming",
            "pruning_ratio": 0.7,
            "passes": 2,
            "insert_normalization": True,
            "absorb_bias": True,
            "epochs": 5,
        },
    )

    whole_run: ClassVar[str | None] = "scales have to be weak at its end, not the network good"

    method: Literal["network_slimming"] = "network_slimming"
    pruning_ratio: OpenRatio = 0.5
    """Share of the channels that is removed, over all passes."""
    scope: Literal["global", "layer"] = "global"
    """One threshold for the scales of all layers, as in the paper, or one for each layer, so that every layer loses the same share."""
    penalty: float = Field(1e-4, ge=0, le=1000)
    """Weight of the L1 penalty on the scales, λ in the paper (1e-4 for VGG, 1e-5 for ResNet and DenseNet, in trainings of 160 epochs; short
    ones need more, and the job warns where no scale can reach zero). With `sgd` it is added to the gradient, as the authors do; `adam` and
    `adamw` rescale gradients, so there each step takes the learning rate times this from every scale directly."""
    gamma_init: float | None = Field(None, gt=0, le=10)
    """Every scale begins here; the authors train from new weights with 0.5. By default a trained network keeps its own."""
    passes: int = Field(1, ge=1, le=20)
    """How often the network is trained, pruned and tuned; each pass keeps the same share of what was left."""
    absorb_bias: bool = False
    """Move what removed channels still say, the constant that their shifts make, into the biases of the layers that read them. The accuracy
    before tuning hardly falls then; the authors leave it out."""
    min_channels: int = Field(1, ge=1, le=65_536)
    """No layer keeps fewer channels than this."""
    round_to: int = Field(1, ge=1, le=1024)
    """Kept channels of a layer are a multiple of this."""
    insert_normalization: bool = False
    """Give a network without batch normalization one behind every convolution but the last layer while it is trained: it begins as the
    identity, its scales are penalized and ranked, and it is folded into the convolutions before channels are removed and after tuning."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """Optimizer of the sparse training."""
    learning_rate: float = Field(0.05, gt=0, le=1000)
    """Peak learning rate of the sparse training. 0.001 by default for `adam` and `adamw`."""
    weight_decay: float = Field(1e-4, ge=0, le=10)
    """Weight decay of the sparse training; never on scales and biases."""
    finetune: Finetune | None = None
    """Tuning of the smaller network after each pass."""

    @property
    def share_left(self) -> float:
        """All but the share that is removed."""
        return 1 - self.pruning_ratio

    def cost(self, facts: Facts) -> Cost:
        """Sparse training and tuning, as often as there are passes."""
        tuning = self.finetune.training_cost(facts) if self.finetune else NOTHING
        return (self.training_cost(facts) + tuning).times(self.passes)

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_optimizer(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("optimizer") in ("adam", "adamw"):
            return {"learning_rate": 1e-3, **data}
        return data
