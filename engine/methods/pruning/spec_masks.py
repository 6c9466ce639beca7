"""Parameters of the pruning methods that learn masks."""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from engine.contract.cost import MASKED_COPIES, Cost, Facts
from engine.contract.method import Effect, MethodParams, Reference, Requires
from engine.contract.params import LayerChoice, OpenRatio, TrainingRun

TRIED_EXAMPLES = 1024
"""Training examples on which drawn masks are compared, at most."""


class Supermask(MethodParams, LayerChoice, TrainingRun):
    """Learn which weights to keep, and train none of them: the network works because of its mask alone.

    Weights and biases stay bit-identical; only a score per weight is trained. Biases are frozen and never masked. Besides the dense
    file a compact one is published that holds one bit per weight and the initial weights: a seed with `initialization: random`,
    signs and one constant per layer with `weights: signed_constant`, the kept values otherwise.
    """

    title: ClassVar[str] = "Supermask"
    requires: ClassVar[Requires] = Requires(dataset=True, labels=True)
    effect: ClassVar[Effect] = Effect(file_size="only_compressed", dense_latency="unchanged")
    references: ClassVar[tuple[Reference, ...]] = (
        Reference(
            title="Zhou et al., Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask, NeurIPS 2019",
            url="https://arxiv.org/abs/1905.01067",
        ),
        Reference(
            title="Ramanujan et al., What's Hidden in a Randomly Weighted Neural Network?, CVPR 2020",
            url="https://arxiv.org/abs/1911.13299",
        ),
    )
    examples: ClassVar = (
        {"method": "supermask", "initialization": "random", "epochs": 20},
        {"method": "supermask", "algorithm": "edge_popup", "k": 0.3, "weights": "signed_constant", "epochs": 10},
    )
    forbids_next: ClassVar = {"structured_pruning": "channels are removed before weights are masked: put structured_pruning first"}

    method: Literal["supermask"] = "supermask"
    algorithm: Literal["bernoulli", "round", "edge_popup"] = "bernoulli"
    """`bernoulli` draws each mask bit with probability sigmoid(score), also at evaluation; `round` rounds that probability (in training
    for a random half of the weights); `edge_popup` keeps the weights with the largest |score| of each layer. All pass the gradient
    straight through."""
    k: OpenRatio = 0.5
    """Share of each layer's weights that `edge_popup` keeps; the other algorithms find their own."""
    initialization: Literal["given", "random"] = "given"
    """`given` masks the weights that the network has; `random` first draws the chosen layers anew, biases zero: normal with Glorot's
    deviation, for `edge_popup` with Kaiming's divided by the root of `k`."""
    weights: Literal["init", "signed_constant"] = "init"
    """`signed_constant` keeps the sign of each weight only; every magnitude becomes the layer's standard deviation times
    `constant_multiplier`."""
    constant_multiplier: float = Field(1.0, gt=0, le=1000)
    """Factor on the magnitude of `signed_constant`."""
    dwr: bool = True
    """Dynamic weight rescaling: the masked weights of a layer are multiplied by (number of weights / number kept) of the present mask.
    Off by default for `edge_popup`."""
    score_init: float = Field(0.0, ge=-20, le=20)
    """Initial score of every weight, so the first mask keeps sigmoid(score_init) of them; `edge_popup` draws its scores."""
    eval_samples: int = Field(10, ge=1, le=1000)
    """Masks that `bernoulli` draws to measure mean and deviation, and to choose the published one from."""
    published_mask: Literal["best", "rounded"] = "best"
    """A file holds one mask. Of `bernoulli`, `best` is the one of the rounded and the drawn masks with the lowest loss on (at most
    1,024) training examples; `rounded` keeps every weight whose probability is above one half."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """Optimizer of the scores."""
    learning_rate: float = Field(100.0, gt=0, le=100_000)
    """Peak learning rate of the scores; the gradient of a sigmoid's score is tiny. 0.1 by default for `edge_popup`."""
    schedule: Literal["constant", "cosine", "linear", "multistep"] = "constant"
    """Learning-rate schedule over the whole run. `cosine` by default for `edge_popup`."""

    def cost(self, facts: Facts) -> Cost:
        """One training of the scores, and masks that are drawn and tried."""
        drawn = self.eval_samples if self.algorithm == "bernoulli" else 0
        return self.training_cost(facts) + Cost(read_examples=drawn * min(TRIED_EXAMPLES, facts.train_examples), copies=MASKED_COPIES)

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_algorithm(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("algorithm") == "edge_popup":
            return {"dwr": False, "learning_rate": 0.1, "schedule": "cosine", "weight_decay": 5e-4, **data}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> "Supermask":
        edge_popup = self.algorithm == "edge_popup"
        if not edge_popup and self.k != type(self).model_fields["k"].default:
            raise ValueError(f"{self.algorithm} finds its own density; k belongs to edge_popup")
        if edge_popup and self.score_init != 0:
            raise ValueError("edge_popup draws its scores; score_init belongs to bernoulli and round")
        fields = type(self).model_fields
        drawn = [name for name in ("eval_samples", "published_mask") if getattr(self, name) != fields[name].default]
        if self.algorithm != "bernoulli" and drawn:
            raise ValueError(f"{self.algorithm} has one mask and draws none; {' and '.join(drawn)} belong(s) to bernoulli")
        if self.weights == "init" and self.constant_multiplier != 1:
            raise ValueError("constant_multiplier needs weights: signed_constant")
        return self
