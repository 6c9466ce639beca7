"""Parameters of the pruning methods that find filters to remove while they train."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from engine.method import Effect, MethodParams, Reference, Requires
from engine.params import Finetune, LayerChoice, OpenRatio, TrainingFields


class SoftFilterPruning(MethodParams, LayerChoice, TrainingFields):
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

    @model_validator(mode="after")
    def _some_length(self) -> "SoftFilterPruning":
        if self.epochs is None and self.iterations is None:
            raise ValueError("give epochs or iterations")
        return self
