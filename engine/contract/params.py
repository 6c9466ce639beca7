"""Parameter groups that several methods share, so that one idea has one name and one set of bounds."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, WrapValidator, model_validator

from engine.contract.cost import Cost, Facts


class Params(BaseModel):
    """Frozen, closed and documented: the base of everything that comes from a spec."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def _refuse_percentages(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool) and 1 < value <= 100:
        raise ValueError(f"ratios are 0..1, got {value:g}; did you mean {value / 100:g}?")
    return value


NotAPercentage = BeforeValidator(_refuse_percentages)
OpenRatio = Annotated[float, Field(gt=0, lt=1), NotAPercentage]
"""A share strictly between nothing and everything."""
Ratio = Annotated[float, Field(ge=0, le=1), NotAPercentage]
"""A share from 0 to 1 inclusive."""


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


class TrainingFields(Params):
    """How to train: the same fields wherever a method trains or tunes."""

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

    def training_cost(self, facts: Facts) -> Cost:
        """What one such training costs."""
        if self.iterations is not None:
            return Cost(trained_examples=self.iterations * self.batch_size)
        return Cost(trained_examples=(self.epochs or 0) * facts.train_examples)

    @model_validator(mode="after")
    def _one_length(self) -> "TrainingFields":
        if self.epochs is not None and self.iterations is not None:
            raise ValueError("give either epochs or iterations, not both")
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

    @model_validator(mode="after")
    def _exactly_one(self) -> "Budget":
        if sum(value is not None for value in (self.params_ratio, self.macs_ratio, self.latency_ratio)) != 1:
            raise ValueError("give exactly one of params_ratio, macs_ratio, latency_ratio")
        return self
