"""Parameters of the learning family: a network learns from labelled examples."""

from typing import ClassVar, Literal

from engine.contract.cost import Cost, Facts
from engine.contract.method import MethodParams, Reference, Requires
from engine.contract.params import TrainingRun


class Train(MethodParams, TrainingRun):
    """Train the network on the labels of the dataset, from its present weights or from new ones.

    Baselines from scratch, architectures that are uploaded without weights, and lottery tickets need it.
    """

    title: ClassVar[str] = "Training"
    requires: ClassVar[Requires] = Requires(dataset=True, labels=True)
    references: ClassVar[tuple[Reference, ...]] = (
        Reference(title="Liu et al., Rethinking the Value of Network Pruning, ICLR 2019", url="https://arxiv.org/abs/1810.05270"),
        Reference(
            title="Glorot, Bengio, Understanding the Difficulty of Training Deep Feedforward Neural Networks, AISTATS 2010",
            url="https://proceedings.mlr.press/v9/glorot10a.html",
        ),
        Reference(title="He et al., Delving Deep into Rectifiers, ICCV 2015", url="https://arxiv.org/abs/1502.01852"),
    )
    examples: ClassVar = ({"method": "train", "epochs": 3}, {"method": "train", "initialization": "glorot_normal", "iterations": 20})

    method: Literal["train"] = "train"
    initialization: Literal["keep", "default", "glorot_normal", "kaiming_normal"] = "keep"
    """`keep` goes on from the present weights; the others draw new ones: torch's own way, normal after Glorot, normal after He (both
    with biases of zero)."""
    hold_zeros: bool = False
    """Weights of convolutions and linear layers that are exactly zero now stay zero: this is how a lottery ticket is trained again."""

    def cost(self, facts: Facts) -> Cost:
        """One training."""
        return self.training_cost(facts)
