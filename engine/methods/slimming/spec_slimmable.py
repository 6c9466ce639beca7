"""Parameters of networks whose width is switched while they run."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from engine.contract.cost import MASKED_COPIES, Cost, Facts
from engine.contract.method import Effect, MethodParams, Reference, Requires
from engine.contract.params import LayerChoice, NotAPercentage, TrainingRun

SWITCHABLE = (
    "it would make one network of several widths: promote the width that you want to a model, or put the step that adds widths last"
)
"""Why hardly anything may follow."""
Width = Annotated[float, Field(gt=0, le=1), NotAPercentage]
"""A share of the channels of every layer."""
Ranking = Literal["magnitude_l1", "magnitude_l2", "group_norm", "taylor", "bn_scale", "first"]
LEVELS = 16
"""Universal training draws widths that are multiples of one over this of the way from the smallest to the largest."""


class SlimmableParams(LayerChoice, TrainingRun):
    """What a supernet is made by, wherever one is trained."""

    ranking: Ranking = "magnitude_l2"
    """By what the channels of the uploaded network are ranked before training: a width has the first of this order, so that every width lies
    inside of all larger ones. As `importance` of `structured_pruning`; `first` takes them as they lie, as the authors do from new weights."""
    round_to: int = Field(1, ge=1, le=1024)
    """Channels of a layer are a multiple of this at every width, or all that there are."""
    insert_normalization: bool = True
    """Give a convolutional network without any normalization (exporters fold it into the convolutions) batch normalization behind every
    convolution but the last layer. It begins as the identity. Every width has its own; without any, widths have biases of their own."""


class Slimmable(MethodParams, SlimmableParams):
    """Make the network switchable: one set of weights that runs at several widths, each measured, all of them in one file.

    Every width reads the first channels of each layer, in an order that is found before training; channels that residual connections,
    concatenations, grouped or depthwise convolutions tie together are taken together. Convolutional networks get batch normalization of
    their own at each width (switchable); transformers nest their heads and the hidden units of their MLPs, and share everything.
    With `universal`, widths between the listed ones are trained, too, by the sandwich rule.

    The published ONNX file runs at the largest width in any runtime. `GET /v1/artifacts/{id}/subnet?width=` returns another one as a plain
    ONNX file, bit for bit what was measured; `modelpress.runtime` cuts it out of the downloaded file.

    Quantization may follow: each width is quantized and measured by itself, and all of them are published as one file. Their 8-bit weights are
    rounded by scales of their own, so that they are stored for each width.
    """

    title: ClassVar[str] = "Slimmable network"
    requires: ClassVar[Requires] = Requires(dataset=True, labels=True)
    effect: ClassVar[Effect] = Effect(file_size="unchanged", dense_latency="depends_on_hardware")
    references: ClassVar[tuple[Reference, ...]] = (
        Reference(title="Yu et al., Slimmable Neural Networks, ICLR 2019", url="https://arxiv.org/abs/1812.08928"),
        Reference(
            title="Yu, Huang, Universally Slimmable Networks and Improved Training Techniques, ICCV 2019",
            url="https://arxiv.org/abs/1903.05134",
        ),
        Reference(
            title="Devvrit et al., MatFormer: Nested Transformer for Elastic Inference, NeurIPS 2024",
            url="https://arxiv.org/abs/2310.07707",
        ),
    )
    examples: ClassVar = (
        {"method": "slimmable", "widths": [0.25, 0.5, 0.75, 1.0], "epochs": 10},
        {"method": "slimmable", "widths": [0.25, 0.5, 1.0], "universal": True, "samples": 4, "epochs": 10},
    )
    forbids_next: ClassVar = dict.fromkeys(("pruning", "distillation", "learning", "dynamic"), SWITCHABLE) | dict.fromkeys(
        ("network_slimming", "slimmable"), SWITCHABLE
    )

    method: Literal["slimmable"] = "slimmable"
    widths: tuple[Width, ...] = Field((0.25, 0.5, 0.75, 1.0), min_length=2, max_length=16)
    """Shares of the channels of every layer at which the network is published and measured; each is a setting of the result."""
    universal: bool = False
    """Train any width between the smallest and the largest (US-Nets): each step takes the largest, the smallest and random ones."""
    samples: int = Field(4, ge=3, le=16)
    """Widths of one step of `universal`."""
    normalization: Literal["switchable", "recalibrated", "shared"] | None = None
    """Batch normalization of the widths: all of it their own (`switchable`, the default); scales and shifts shared, statistics measured for
    each width after training (`recalibrated`, the default with `universal`); or all of it shared (`shared`), which fails at small widths and
    is there to show it."""
    inplace_distillation: bool | None = None
    """The largest width learns the targets, and the others the largest one's answers alone. By default with `universal` only."""
    controls: tuple[Literal["individual", "shared", "sliced"], ...] = Field((), max_length=3)
    """What the widths are compared with, in the report: each width cut out of the uploaded network and trained alone, as long
    (`individual`); a slimmable network with shared normalization (`shared`); the uploaded network cut and not trained (`sliced`)."""

    @property
    def switched(self) -> Literal["switchable", "recalibrated", "shared"]:
        """Batch normalization of the widths, with the default filled in."""
        return self.normalization or ("recalibrated" if self.universal else "switchable")

    @property
    def distills(self) -> bool:
        """Whether narrow widths learn from the largest."""
        return self.universal if self.inplace_distillation is None else self.inplace_distillation

    def cost(self, facts: Facts) -> Cost:
        """A width w of all channels computes about w²; the largest is as large as the network itself."""
        once = self.training_cost(facts)
        each = sum(width**2 for width in self.widths)
        together = 1 + (self.samples - 1) * each / len(self.widths) if self.universal else each
        alone = each if "individual" in self.controls else 0.0
        return once.times(together * (1 + ("shared" in self.controls)) + alone) + Cost(
            read_examples=facts.train_examples * each, copies=MASKED_COPIES
        )

    @model_validator(mode="after")
    def _consistent(self) -> "Slimmable":
        if len(set(self.widths)) < len(self.widths):
            raise ValueError("name every width once")
        if len(set(self.controls)) < len(self.controls):
            raise ValueError("name every control once")
        if not self.universal and self.samples != type(self).model_fields["samples"].default:
            raise ValueError("samples belongs to universal: without it every step trains all widths")
        if "shared" in self.controls and self.switched == "shared":
            raise ValueError("controls: normalization is shared already")
        return self

    def descending(self) -> Sequence[float]:
        """The widths, the largest first: it is what the file runs at."""
        return sorted(self.widths, reverse=True)
