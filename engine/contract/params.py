"""Parameter groups that several methods share, so that one idea has one name and one set of bounds."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, TypeAdapter, WrapValidator, model_validator

from engine.contract.augment import Augment
from engine.contract.base import NotAPercentage, OpenRatio, Params, Ratio
from engine.contract.cost import NOTHING, TRAINED_COPIES, Cost, Facts

__all__ = [
    "EarlyStopping",
    "Finetune",
    "LayerChoice",
    "LayerPattern",
    "NotAPercentage",
    "OpenRatio",
    "Params",
    "Ratio",
    "RatioOrAuto",
    "TrainingFields",
    "TrainingRun",
]


def _ratio_unless_auto(value: Any, _: Any) -> Any:
    # A plain union would report two problems for one wrong number.
    return value if value == "auto" else _OPEN_RATIO.validate_python(value)


_OPEN_RATIO: TypeAdapter[float] = TypeAdapter(OpenRatio)
RatioOrAuto = Annotated[OpenRatio | Literal["auto"], WrapValidator(_ratio_unless_auto)]
"""A share strictly between nothing and everything, or `auto`."""

LayerPattern = Annotated[str, Field(min_length=1, max_length=512)]
"""A layer name, a glob, `re:` and a regular expression, or a layer type such as `Conv2d`."""


class LayerChoice(Params):
    """Which layers a method touches."""

    include: tuple[LayerPattern, ...] = ()
    """Only these layers, by name, glob, `re:` pattern or type; empty means every prunable layer."""
    ignore: tuple[LayerPattern, ...] = ()
    """Never these layers; wins over `include`."""


class EarlyStopping(Params):
    """When to end a training before its full length, by a look at validation examples after each epoch; the best state is kept.

    The validation split serves, or a tenth of the training examples, which is then kept out of the training.
    """

    patience: int = Field(5, ge=1, le=100_000)
    """Epochs without a better state after which the training ends."""
    metric: str = Field("loss", pattern=r"^[a-z][a-z0-9_]{0,62}$")
    """What is looked at: `loss` (the very loss of the training, without augmentation), or a metric such as `top1`."""
    min_delta: float = Field(0.0, ge=0, le=1e6)
    """What a better state has to gain at least, in the metric's own unit."""

    @model_validator(mode="after")
    def _known(self) -> "EarlyStopping":
        from engine.contract.metric import catalogue

        if self.metric != "loss" and self.metric not in catalogue():
            raise ValueError(f"there is no metric {self.metric!r}; loss, or one of {', '.join(catalogue())}")
        return self


class TrainingFields(Params):
    """How to train: the same fields wherever a method trains or tunes."""

    whole_run: ClassVar[str | None] = None
    """Why a training with these parameters may neither end early nor be averaged, where that is so."""

    epochs: int | None = Field(None, ge=0, le=100_000)
    """Passes over the training split. Either this or `iterations`."""
    iterations: int | None = Field(None, ge=0, le=1_000_000_000)
    """Optimizer steps; an alternative to `epochs`."""
    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    """Optimizer: `sgd` (with `momentum`), `adam` or `adamw`."""
    learning_rate: float = Field(1e-3, gt=0, le=1000)
    """Peak learning rate."""
    schedule: Literal["constant", "cosine", "linear", "multistep"] = "cosine"
    """Learning-rate schedule over the whole run; `multistep` multiplies by `gamma` at each of `milestones`."""
    milestones: tuple[OpenRatio, ...] = (0.5, 0.75)
    """Where `multistep` lowers the rate, as shares of the run."""
    gamma: float = Field(0.1, gt=0, lt=1)
    """Factor of `multistep` at each milestone."""
    warmup_iterations: int = Field(0, ge=0, le=10_000_000)
    """Optimizer steps over which the rate rises linearly from 0 to `learning_rate`."""
    batch_size: int = Field(64, ge=1, le=65_536)
    """Examples in one optimizer step."""
    weight_decay: float = Field(0.0, ge=0, le=10)
    """Weight decay; never applied to biases and normalization parameters."""
    momentum: Ratio = 0.9
    """Momentum of `sgd`."""
    label_smoothing: Ratio = 0.0
    """Share of the target spread evenly over all classes."""
    gradient_clip_norm: float | None = Field(None, gt=0)
    """Largest norm of the gradient of one step; longer ones are scaled down."""
    augment: Augment | None = None
    """Changes at random of the training examples."""
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Validate, and end with, the exponential moving average of the weights over the optimizer steps, which keeps this share of itself at
    each step (less in the first ones: at most (1 + step) / (10 + step)). Usual are 0.99 to 0.9999."""
    precision: Literal["float32", "mixed"] = "float32"
    """`mixed`: the network computes in bfloat16 where torch's autocast finds it safe; weights, losses and the optimizer stay float32.
    Faster on GPUs that have bfloat16, mostly slower on CPUs."""
    early_stopping: EarlyStopping | None = None
    """End when validation examples say so, and keep the best state."""

    def training_cost(self, facts: Facts) -> Cost:
        """What one such training costs."""
        passed = (self.epochs or 0) * facts.train_examples if self.iterations is None else self.iterations * self.batch_size
        if not passed:
            return NOTHING
        kept = min(self.batch_size, facts.train_examples)
        return Cost(trained_examples=passed, optimizer_steps=passed / kept if kept else 0, kept_examples=kept, copies=TRAINED_COPIES)

    @model_validator(mode="after")
    def _one_length(self) -> "TrainingFields":
        if self.epochs is not None and self.iterations is not None:
            raise ValueError("give either epochs or iterations, not both")
        if self.whole_run is not None and (self.ema_decay is not None or self.early_stopping is not None):
            raise ValueError(f"this training takes neither ema_decay nor early_stopping: {self.whole_run}")
        return self


class TrainingRun(TrainingFields):
    """Training whose length is required: give `epochs` or `iterations`."""

    @model_validator(mode="after")
    def _some_length(self) -> "TrainingRun":
        if self.epochs is None and self.iterations is None:
            raise ValueError("give epochs or iterations")
        return self


class Finetune(TrainingRun):
    """Training of the network after a change, to win back accuracy. Give `epochs` or `iterations`."""


class Budget(Params):
    """How much of the network stays, measured instead of counted in channels. Exactly one field."""

    params_ratio: OpenRatio | None = None
    """Share of the parameters that stays."""
    macs_ratio: OpenRatio | None = None
    """Share of the multiply-accumulate operations of convolutions and linear layers that stays."""
    latency_ratio: OpenRatio | None = None
    """Share of the latency that stays: batch size 1, ONNX Runtime on this worker's CPU, original and candidates measured in turns."""

    @property
    def share(self) -> float:
        """The one that is given."""
        return self.params_ratio or self.macs_ratio or self.latency_ratio or 1.0

    @model_validator(mode="after")
    def _exactly_one(self) -> "Budget":
        if sum(value is not None for value in (self.params_ratio, self.macs_ratio, self.latency_ratio)) != 1:
            raise ValueError("give exactly one of params_ratio, macs_ratio, latency_ratio")
        return self
