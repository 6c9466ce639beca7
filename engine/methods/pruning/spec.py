"""Parameters of the pruning family: weights set to zero, channels removed."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, TypeAdapter, ValidatorFunctionWrapHandler, WrapValidator, model_validator

from engine.contract.cost import MASKED_COPIES, NOTHING, Cost, Facts
from engine.contract.method import Effect, MethodParams, Reference, Requires
from engine.contract.params import Budget, Finetune, LayerChoice, LayerPattern, NotAPercentage, OpenRatio, Ratio, RatioOrAuto
from engine.methods.pruning.spec_filters import Sensitivity, SoftFilterPruning, SparseStructureSelection
from engine.methods.pruning.spec_lottery import LotteryTicket
from engine.methods.pruning.spec_masks import Supermask

__all__ = [
    "LotteryTicket",
    "MagnitudePruning",
    "Sensitivity",
    "SoftFilterPruning",
    "SparseStructureSelection",
    "StructuredPruning",
    "Supermask",
]

Importance = Literal["magnitude_l1", "magnitude_l2", "taylor", "random"]
ChannelImportance = Literal[
    "magnitude_l1", "magnitude_l2", "group_norm", "taylor", "hessian", "bn_scale", "fpgm", "lamp", "thinet", "random"
]


class Regularization(Finetune):
    """Training before channels are removed that draws whole channels towards zero, the weak ones most (DepGraph, section 3.4)."""

    whole_run: ClassVar[str | None] = "channels have to be weak at its end, not the network good"

    strength: float = Field(0.1, gt=0, le=1000)
    """Share of a channel that each optimizer step takes away, in units of the learning rate; weak channels lose up to 16 times that."""


def _one_or_each(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    # A plain union would report every alternative for one wrong number.
    return _BY_LAYER.validate_python(value) if isinstance(value, Mapping) else _ONE.validate_python(value)


RatiosByLayer = Annotated[dict[LayerPattern, Annotated[float, Field(ge=0, lt=1), NotAPercentage]], Field(min_length=1, max_length=10_000)]
_BY_LAYER: TypeAdapter[dict[str, float]] = TypeAdapter(RatiosByLayer)
_ONE: TypeAdapter[Any] = TypeAdapter(RatioOrAuto)
PruningRatio = Annotated[RatioOrAuto | RatiosByLayer, WrapValidator(_one_or_each)]

CURVE_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of a layer at which `pruning_ratio: auto` looks."""
CURVE_EXAMPLES = 1000
"""Validation examples that it looks at, at most."""


class StructuredPruning(MethodParams, LayerChoice):
    """Remove whole channels, so that the network really becomes smaller and faster.

    Channels that residual connections, concatenations or depthwise convolutions tie together are removed together (DepGraph).
    The output layer keeps its width and no layer is ever emptied. Hidden units of an LSTM, GRU or RNN are removed where `include` or
    the mapping of `pruning_ratio` names the layer.
    """

    title: ClassVar[str] = "Structured pruning"
    requires: ClassVar[Requires] = Requires(dataset=False)
    effect: ClassVar[Effect] = Effect(file_size="smaller", dense_latency="faster")
    references: ClassVar[tuple[Reference, ...]] = (
        Reference(title="Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023", url="https://arxiv.org/abs/2301.12900"),
        Reference(title="Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017", url="https://arxiv.org/abs/1608.08710"),
        Reference(
            title="Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019", url="https://arxiv.org/abs/1906.10771"
        ),
        Reference(title="Liu et al., Network Slimming, ICCV 2017 (bn_scale)", url="https://arxiv.org/abs/1708.06519"),
        Reference(title="He et al., Filter Pruning via Geometric Median, CVPR 2019 (fpgm)", url="https://arxiv.org/abs/1811.00250"),
        Reference(
            title="Liu et al., Rethinking the Value of Network Pruning, ICLR 2019 (baselines)", url="https://arxiv.org/abs/1810.05270"
        ),
        Reference(title="Luo et al., ThiNet, ICCV 2017 (thinet)", url="https://arxiv.org/abs/1707.06342"),
        Reference(
            title="Lee et al., Layer-Adaptive Sparsity for Magnitude-Based Pruning, ICLR 2021", url="https://arxiv.org/abs/2010.07611"
        ),
    )
    examples: ClassVar = (
        {"method": "structured_pruning", "pruning_ratio": 0.5, "finetune": {"epochs": 3}},
        {"method": "structured_pruning", "budget": {"macs_ratio": 0.25}, "scope": "global", "iterations": 3},
        {"method": "structured_pruning", "pruning_ratio": "auto", "max_drop": 0.02},
        {
            "method": "structured_pruning",
            "pruning_ratio": {"Conv2d": 0.5},
            "importance": "group_norm",
            "regularization": {"epochs": 2, "strength": 0.1},
        },
        {
            "method": "structured_pruning",
            "importance": "magnitude_l1",
            "finetune": {"epochs": 2},
            "baselines": ["scratch_e", "scratch_b", "random"],
            "training": {"epochs": 5},
        },
    )

    method: Literal["structured_pruning"] = "structured_pruning"
    pruning_ratio: PruningRatio | None = None
    """Share of the channels that is removed. Either this or `budget`; 0.5 where neither is given. `auto` gives every layer a share of
    its own: the largest one at which this layer alone, pruned without tuning, loses no more than `max_drop` of validation accuracy.
    A mapping says it for each layer, such as `{"layer1.*": 0.3, "layer2.0.conv1": 0.6}`: a layer's own name counts before patterns, and
    of several patterns, or of layers that are tied together, the smallest ratio. Layers that nothing names stay whole."""
    max_drop: Ratio = 0.01
    """Loss of accuracy that `pruning_ratio: auto` accepts for each layer by itself."""
    budget: Budget | None = None
    """What the pruned network may still cost, instead of `pruning_ratio`."""
    importance: ChannelImportance = "magnitude_l2"
    """How channels are ranked: by the norm of the filters that produce them (`magnitude_l1`, `magnitude_l2`), of everything that
    they tie (`group_norm`), by the change of the loss to first (`taylor`) or second order (`hessian`; both need labelled data), by
    batch normalization's scale (`bn_scale`), by distance to the other filters (`fpgm`), by layer-adaptive magnitude (`lamp`), by what the
    next layer misses least on training examples (`thinet`, which also rescales the next layer's kernel to make up for the loss)."""
    scope: Literal["global", "layer"] = "layer"
    """Rank all channels of the network together, or remove the same share of every layer."""
    iterations: int = Field(1, ge=1, le=1000)
    """Rounds of removing and tuning on the way to the target; each round tunes for `finetune`."""
    round_to: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = "auto"
    """Kept channels of a layer are a multiple of this. `auto` measures for each kind of layer, on the runtime that publishes, which
    multiple is computed without waste (up to 16), and rounds layers of few channels less: with 37 channels a convolution may well take
    longer than with 40. The report's `round_to` says what was chosen."""
    min_channels: int = Field(1, ge=1, le=65_536)
    """No layer keeps fewer channels than this."""
    regularization: Regularization | None = None
    """Sparse training before the first channel goes; needs labelled data."""
    finetune: Finetune | None = None
    """Tuning after each round; needs labelled data."""
    insert_normalization: bool = False
    """Give a convolutional network without any normalization batch normalization of its own while it is tuned. It begins as the
    identity and is folded into the convolutions afterwards, so that the published network has the layers that it had."""
    baselines: tuple[Literal["scratch_e", "scratch_b", "random"], ...] = Field((), max_length=3)
    """What the result is compared with, in the report: the pruned architecture trained from new weights for as many epochs as
    `training` says (`scratch_e`) or for the same computation, that is as many times longer as it needs fewer operations
    (`scratch_b`); and randomly chosen channels with the same widths and tuning (`random`)."""
    training: Finetune | None = None
    """How the original network was trained, for `scratch_e` and `scratch_b`."""

    def cost(self, facts: Facts) -> Cost:
        """Sparse training, one tuning a round, the curves of `auto`, and the baselines as if the network were as large as before."""
        tuned = (self.finetune.training_cost(facts) if self.finetune else NOTHING).times(self.iterations)
        sparse = self.regularization.training_cost(facts) if self.regularization else NOTHING
        scratch = self.training.training_cost(facts) if self.training else NOTHING
        compared = sum((tuned if name == "random" else scratch for name in self.baselines), NOTHING)
        curves = len(CURVE_RATIOS) * facts.layers_count * min(CURVE_EXAMPLES, facts.train_examples) if self.pruning_ratio == "auto" else 0
        return sparse + tuned + compared + Cost(read_examples=curves)

    @property
    def share_left(self) -> float:
        """The budget, or all but the share that is removed."""
        if self.budget is not None:
            return self.budget.share
        ratio = 0.5 if self.pruning_ratio is None else self.pruning_ratio
        return 1 - ratio if isinstance(ratio, float) else 1.0

    @property
    def needs(self) -> Requires:
        """Labels when channels are ranked by gradients or the network is trained or tuned."""
        trained = self.finetune is not None or self.regularization is not None or bool(self.baselines)
        labels = self.importance in ("taylor", "hessian") or trained or self.pruning_ratio == "auto"
        return Requires(dataset=labels or self.importance == "thinet", labels=labels)

    @model_validator(mode="after")
    def _one_target(self) -> "StructuredPruning":
        if self.pruning_ratio is not None and self.budget is not None:
            raise ValueError("give either pruning_ratio or budget, not both")
        if self.pruning_ratio == "auto" and self.scope == "global":
            raise ValueError("pruning_ratio: auto finds the share of each layer by itself; it needs scope: layer")
        if isinstance(self.pruning_ratio, dict) and self.scope == "global":
            raise ValueError("ratios for each layer need scope: layer")
        if self.pruning_ratio != "auto" and self.max_drop != type(self).model_fields["max_drop"].default:
            raise ValueError("max_drop belongs to pruning_ratio: auto; constraints.accuracy bounds the loss of the whole job")
        scratch = any(name.startswith("scratch") for name in self.baselines)
        if scratch != (self.training is not None):
            raise ValueError("scratch_e and scratch_b train as the original was trained, and only they: give both baselines and training")
        if self.insert_normalization and self.finetune is None:
            raise ValueError("insert_normalization normalizes while the network is tuned; it needs finetune")
        if len(set(self.baselines)) != len(self.baselines):
            raise ValueError("name every baseline once")
        return self


class MagnitudePruning(MethodParams, LayerChoice):
    """Set the least important weights to zero; shapes stay.

    Zeros make the *compressed* file smaller: besides the dense file, one is published with a bit per weight and the values that are
    not zero, which `engine.formats.sparse.load_sparse` reads back into tensors by name. They do not make dense inference faster, and the report measures that.
    Weights are pruned by rank; biases and normalization parameters never are.
    """

    title: ClassVar[str] = "Magnitude pruning (unstructured)"
    requires: ClassVar[Requires] = Requires(dataset=False)
    effect: ClassVar[Effect] = Effect(file_size="only_compressed", dense_latency="unchanged")
    references: ClassVar[tuple[Reference, ...]] = (
        Reference(
            title="Han et al., Learning both Weights and Connections for Efficient Neural Networks, NeurIPS 2015",
            url="https://arxiv.org/abs/1506.02626",
        ),
        Reference(title="Zhu, Gupta, To prune, or not to prune, 2017", url="https://arxiv.org/abs/1710.01878"),
    )
    examples: ClassVar = (
        {"method": "magnitude_pruning", "sparsity": 0.8, "finetune": {"epochs": 2}},
        {"method": "magnitude_pruning", "pattern": "2:4"},
    )
    forbids_next: ClassVar = {"structured_pruning": "channels are removed before weights are set to zero: put structured_pruning first"}

    method: Literal["magnitude_pruning"] = "magnitude_pruning"
    sparsity: OpenRatio | None = None
    """Share of the weights of the chosen layers that becomes zero. Either this or `pattern`; 0.5 where neither is given."""
    pattern: Annotated[str, Field(pattern=r"^[1-9]\d?:[1-9]\d?$")] | None = None
    """`N:M` keeps N of every M neighbouring inputs, for example `2:4`; replaces `sparsity`, and is the same in either `scope`."""
    importance: Importance = "magnitude_l1"
    """How weights are ranked; `taylor` (|weight · gradient|) needs labelled data."""
    scope: Literal["global", "layer"] = "global"
    """Rank all weights together, or prune every layer to the same sparsity."""
    schedule: Literal["one_shot", "iterative", "gradual"] = "one_shot"
    """`iterative` prunes and tunes in `iterations` rounds, each keeping the same share of what was left; `gradual` follows the cubic
    schedule of Zhu and Gupta while it trains."""
    iterations: int = Field(5, ge=1, le=1000)
    """Rounds of `iterative`, or mask updates of `gradual`."""
    finetune: Finetune | None = None
    """Tuning with the mask held; each round of `iterative` tunes this long, `gradual` needs it."""

    @property
    def wanted_sparsity(self) -> float:
        """Share of the weights that becomes zero, of those that a pattern does not rule."""
        return 0.5 if self.sparsity is None else self.sparsity

    def cost(self, facts: Facts) -> Cost:
        """One tuning a round of `iterative`, one in all otherwise."""
        tuning = self.finetune.training_cost(facts) if self.finetune else NOTHING
        return tuning.times(self.iterations if self.schedule == "iterative" else 1) + Cost(copies=MASKED_COPIES)

    @property
    def needs(self) -> Requires:
        """Labels when weights are ranked by gradients or the network is tuned."""
        labels = self.importance == "taylor" or self.finetune is not None
        return Requires(dataset=labels, labels=labels)

    @model_validator(mode="after")
    def _consistent(self) -> "MagnitudePruning":
        if self.schedule == "gradual" and self.finetune is None:
            raise ValueError("schedule: gradual trains while it prunes, so it needs finetune")
        if self.schedule == "gradual" and self.finetune is not None and self.finetune.early_stopping is not None:
            raise ValueError("schedule: gradual prunes until its end, so finetune takes no early_stopping")
        if self.schedule == "one_shot" and self.iterations != type(self).model_fields["iterations"].default:
            raise ValueError("one_shot prunes once: iterations needs schedule: iterative or gradual")
        if self.pattern is not None:
            kept, group = map(int, self.pattern.split(":"))
            if kept >= group:
                raise ValueError(f"pattern {self.pattern} prunes nothing: N must be smaller than M")
            if self.sparsity is not None:
                raise ValueError("give either sparsity or pattern, not both")
            if self.schedule == "gradual":
                raise ValueError("an N:M pattern has no gradual schedule: use one_shot or iterative")
        return self
