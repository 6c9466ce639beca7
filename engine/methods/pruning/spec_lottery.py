"""Parameters of lottery tickets: which weights survive, where they start again, and what the ticket is compared with."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from engine.contract.cost import MASKED_COPIES, Cost, Facts
from engine.contract.method import Effect, MethodParams, Reference, Requires
from engine.contract.params import Finetune, LayerChoice, OpenRatio, Ratio

Criterion = Literal[
    "large_final",
    "small_final",
    "large_init",
    "small_init",
    "large_init_large_final",
    "small_init_small_final",
    "magnitude_increase",
    "movement",
    "snip",
    "random",
]
KeptWeights = Literal["rewind", "reinit", "reshuffle", "constant"]
PrunedWeights = Literal["zero", "freeze_init", "freeze_toward_zero", "freeze_toward_zero_all", "freeze_reshuffled", "freeze_away"]


class LotteryTicket(MethodParams, LayerChoice):
    """Find a sparse subnetwork that trains as well as the whole: train, prune, put the rest back to its early weights, repeat.

    Everything is measured with early stopping found on validation examples, which are carved from the training split where there are
    none. The ticket (early weights under the final mask) is published beside the trained network, so that another job can train it.
    Zeros do not make dense inference faster.
    """

    title: ClassVar[str] = "Lottery ticket (pruning with rewinding)"
    requires: ClassVar[Requires] = Requires(dataset=True, labels=True)
    effect: ClassVar[Effect] = Effect(file_size="only_compressed", dense_latency="unchanged")
    references: ClassVar[tuple[Reference, ...]] = (
        Reference(title="Frankle, Carbin, The Lottery Ticket Hypothesis, ICLR 2019", url="https://arxiv.org/abs/1803.03635"),
        Reference(title="Frankle et al., Stabilizing the Lottery Ticket Hypothesis, 2019", url="https://arxiv.org/abs/1903.01611"),
        Reference(title="Zhou et al., Deconstructing Lottery Tickets, NeurIPS 2019", url="https://arxiv.org/abs/1905.01067"),
        Reference(title="Renda et al., Comparing Rewinding and Fine-tuning, ICLR 2020", url="https://arxiv.org/abs/2003.02389"),
        Reference(title="Lee et al., SNIP, ICLR 2019", url="https://arxiv.org/abs/1810.02340"),
    )
    examples: ClassVar = (
        {"method": "lottery_ticket", "rounds": 2, "training": {"iterations": 20}, "control_repeats": 1},
        {
            "method": "lottery_ticket",
            "mode": "one_shot",
            "sparsity": 0.5,
            "rounds": 1,
            "rewind": "iteration",
            "rewind_at": 4,
            "controls": [],
            "training": {"iterations": 20},
        },
    )
    forbids_next: ClassVar = {"structured_pruning": "channels are removed before weights are set to zero: put structured_pruning first"}

    method: Literal["lottery_ticket"] = "lottery_ticket"
    mode: Literal["iterative", "one_shot"] = "iterative"
    """Prune a little after each training, or all at once after the first one; both end at the same density."""
    rounds: int = Field(7, ge=1, le=30)
    """Rounds of pruning; with `one_shot` the density of that many rounds is reached in one."""
    rate: OpenRatio | None = None
    """Share of the remaining weights that each round prunes. Either this or `sparsity`; 0.2 where neither is given."""
    sparsity: OpenRatio | None = None
    """Share of the weights that is pruned after the last round, instead of `rate`."""
    output_rate_factor: Ratio = 0.5
    """The output layer, small and sensitive, is pruned at `rate` times this; 0 leaves it whole."""
    scope: Literal["layer", "global"] = "layer"
    """Prune every layer at the same rate, or rank the weights of all layers together (the output layer stays apart)."""
    criterion: Criterion = "large_final"
    """Which weights survive, by initial weight wi and final weight wf: |wf|, -|wf|, |wi|, -|wi|, both of them large or small,
    |wf| - |wi|, |wf - wi|, `snip` (|gradient at the start · wi|), or chance."""
    signs: Literal["any", "same", "different"] = "any"
    """Prefer weights whose sign stayed the `same`, or became `different`, in training."""
    initialization: Literal["uploaded", "default", "glorot_normal", "kaiming_normal"] = "glorot_normal"
    """Where training starts: the weights of the uploaded model, or new ones drawn with the job's seed."""
    rewind: Literal["init", "iteration", "epoch", "learning_rate"] = "init"
    """Put kept weights back to their initial values, or to those after `rewind_at` iterations or epochs (late rewinding), or keep the
    trained weights and set only the learning rate's schedule back to iteration `rewind_at`."""
    rewind_at: int = Field(0, ge=0, le=1_000_000_000)
    """Iteration or epoch that `rewind` goes back to."""
    kept_weights: KeptWeights = "rewind"
    """What kept weights start with: `rewind`; the layer's initial values shuffled (`reinit`); the kept initial values shuffled among
    the kept places (`reshuffle`); plus or minus the standard deviation of the layer's initial values (`constant`)."""
    keep_sign: bool = False
    """With `reinit`, `reshuffle` and `constant`: every weight keeps the sign of its initial value."""
    pruned_weights: PrunedWeights = "zero"
    """What pruned weights are: zero; frozen at their initial value; frozen at zero only if training moved them toward zero, else at
    their initial value (`freeze_toward_zero`; `_all`: kept weights that moved toward zero start at zero, too); and two controls that
    zero as many at random (`freeze_reshuffled`) or those that moved away (`freeze_away`)."""
    controls: tuple[Literal["random_reinit", "random_mask"], ...] = ("random_reinit", "random_mask")
    """What the ticket is compared with: the same mask with newly drawn weights, a random mask with the same weights. What is pruned is
    treated as in the ticket."""
    control_repeats: int = Field(3, ge=1, le=20)
    """How often each control is drawn and trained."""
    control_rounds: Literal["last", "all"] = "last"
    """Compare after the last round (the one before a stop by `max_drop`), or after each."""
    validation_every: int = Field(100, ge=1, le=1_000_000)
    """Optimizer steps between two looks at the validation loss; early stopping is where it was lowest."""
    max_drop: float | None = Field(None, ge=0, le=1)
    """Stop before a round whose validation accuracy falls further than this below the dense network's; the first round always counts."""
    training: Finetune
    """One training run; every round and control repeats it with the same budget."""

    def cost(self, facts: Facts) -> Cost:
        """The dense training, one after each pruning, and those of the controls."""
        prunings = self.rounds if self.mode == "iterative" else 1
        compared = prunings if self.control_rounds == "all" else 1
        trainings = 1 + prunings + compared * len(self.controls) * self.control_repeats
        # What each of them came to is kept, to be compared.
        return self.training.training_cost(facts).times(trainings) + Cost(copies=MASKED_COPIES + 2 * trainings)

    @model_validator(mode="after")
    def _consistent(self) -> "LotteryTicket":
        if self.training.early_stopping is not None or self.training.ema_decay is not None:
            raise ValueError(
                "tickets are compared at early stopping in any case (validation_every): training takes neither early_stopping nor ema_decay"
            )
        if self.sparsity is not None and self.rate is not None:
            raise ValueError("give either rate or sparsity, not both")
        if self.rewind == "init" and self.rewind_at:
            raise ValueError("rewind_at needs rewind: iteration, epoch or learning_rate")
        if self.max_drop is not None and (self.mode == "one_shot" or self.rounds == 1):
            raise ValueError("max_drop stops before a later round: it needs mode: iterative and at least two rounds")
        if self.keep_sign and self.kept_weights == "rewind":
            raise ValueError("rewound weights have their signs anyway: keep_sign is for reinit, reshuffle and constant")
        if self.rewind != "init" and (self.kept_weights != "rewind" or self.pruned_weights != "zero"):
            raise ValueError("kept_weights and pruned_weights are defined on the initial weights: they need rewind: init")
        return self

    @property
    def round_rate(self) -> float:
        """Share of the remaining weights that each round prunes."""
        if self.sparsity is not None:
            return float(1 - (1 - self.sparsity) ** (1 / self.rounds))
        return self.rate or 0.2
