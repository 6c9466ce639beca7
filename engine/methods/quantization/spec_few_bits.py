"""Parameters of the quantization methods that leave a few levels to every weight: one bit, three levels, a codebook."""

from typing import ClassVar, Literal

from pydantic import Field

from engine.contract.cost import MASKED_COPIES, Cost, Facts
from engine.contract.method import Effect, MethodParams, Reference, Requires
from engine.contract.params import LayerChoice, TrainingRun

PACKED = {"*": "weights that were packed into few bits cannot be changed any more: put this step last"}


class BinaryConnect(MethodParams, LayerChoice, TrainingRun):
    """Train a network whose weights have one bit each: ±magnitude in every forward and backward pass, real numbers that collect the updates.

    By default all convolutions and linear layers are binarized, first and last ones included; biases and normalizations stay real.
    The real weights are clipped to ±magnitude after every update. Binary layers work best with a batch normalization behind each. The
    report scores the three ways to use the result: binary weights, real weights, and the mean over networks that are drawn by the
    probabilities. The ONNX file holds one bit a weight, which the runtime unpacks when it loads it; a second file is read by
    `modelpress.runtime.packed`.
    """

    title: ClassVar[str] = "BinaryConnect"
    requires: ClassVar[Requires] = Requires(dataset=True, labels=True)
    effect: ClassVar[Effect] = Effect(file_size="smaller", dense_latency="unchanged")
    references: ClassVar[tuple[Reference, ...]] = (
        Reference(
            title="Courbariaux, Bengio, David, BinaryConnect: Training Deep Neural Networks with Binary Weights, NeurIPS 2015",
            url="https://arxiv.org/abs/1511.00363",
        ),
    )
    examples: ClassVar = (
        {"method": "binary_connect", "epochs": 20, "optimizer": "adam", "learning_rate": 0.003},
        {"method": "binary_connect", "binarization": "stochastic", "loss": "squared_hinge", "epochs": 20},
    )
    forbids_next: ClassVar = PACKED
    whole_run: ClassVar[str | None] = "averaged real weights have other signs than any network that was trained"

    method: Literal["binary_connect"] = "binary_connect"
    binarization: Literal["deterministic", "stochastic"] = "deterministic"
    """`deterministic`: the sign, 0 counting as positive. `stochastic`: + with probability clip((w / magnitude + 1) / 2, 0, 1), drawn
    anew in every training step and used forward and backward; the sign where nothing is trained."""
    magnitude: Literal["one", "glorot"] = "glorot"
    """H, what every binary weight of a layer is in size: 1, or √(1.5 / (fan in + fan out)), which needs no normalization behind the layer."""
    update_scaling: Literal["glorot", "none"] = "glorot"
    """`glorot` scales the update of each layer by H / √(1.5 / (fan in + fan out)) with Adam and by its square with SGD (section 2.5), so
    that weights of all layers cross from one sign to the other in about as many steps."""
    initialization: Literal["given", "random"] = "given"
    """`given` starts from the weights that the network has; `random` draws the chosen layers uniformly within ±magnitude."""
    loss: Literal["cross_entropy", "squared_hinge"] = "cross_entropy"
    """`squared_hinge`: the mean over the classes of max(0, 1 - t · score)² with t = ±1, as in the paper; class scores only. `cross_entropy`:
    the loss that the network's task has."""
    inference: Literal["binary", "real"] = "binary"
    """Which network is published: with binary weights, or with the real ones, which is the paper's choice after stochastic training and
    saves nothing. Both are scored."""
    ensemble_size: int = Field(10, ge=0, le=1000)
    """Networks drawn by the probabilities, whose mean outputs are scored; 0 scores none."""
    optimizer: Literal["sgd", "adam", "adamw"] = "adam"
    """Optimizer of the real weights."""

    def cost(self, facts: Facts) -> Cost:
        """One training."""
        return self.training_cost(facts) + Cost(copies=MASKED_COPIES)


class Ternary(MethodParams, LayerChoice, TrainingRun):
    """Train a network whose weights have three levels, -α, 0 and α, and take two bits each.

    In every pass the real weights below 0.7 times their mean magnitude count as 0, the others as ±α, the mean magnitude of those (the closed
    form that is nearest to the real weights); gradients pass straight through to the real ones.
    """

    title: ClassVar[str] = "Ternary weights"
    requires: ClassVar[Requires] = Requires(dataset=True, labels=True)
    effect: ClassVar[Effect] = Effect(file_size="smaller", dense_latency="unchanged")
    references: ClassVar[tuple[Reference, ...]] = (
        Reference(title="Li, Zhang, Liu, Ternary Weight Networks, 2016", url="https://arxiv.org/abs/1605.04711"),
    )
    examples: ClassVar = ({"method": "ternary", "epochs": 10}, {"method": "ternary", "epochs": 10, "granularity": "channel"})
    forbids_next: ClassVar = PACKED

    method: Literal["ternary"] = "ternary"
    threshold: float = Field(0.7, gt=0, lt=3)
    """Weights below this many times the mean magnitude are zero; 0.7 is near the best for normal and uniform weights."""
    granularity: Literal["tensor", "channel"] = "tensor"
    """One α for a layer, as in the paper, or one for every output channel."""
    entropy_coded: bool = True
    """Whether the second file holds the levels in a Huffman code, where that is shorter."""

    def cost(self, facts: Facts) -> Cost:
        """One training."""
        return self.training_cost(facts) + Cost(copies=MASKED_COPIES)


class Codebook(MethodParams, LayerChoice, TrainingRun):
    """Let the weights of each layer share a few values, found by k-means and then trained: indices of a few bits and a codebook are stored.

    Pruned weights stay zero, which is a value of its own. The ONNX file holds the indices, in 1, 2, 4 or 8 bits, which the runtime looks
    up when it loads it; a second file holds them in a Huffman code, of mostly zero layers with the zeros counted.
    """

    title: ClassVar[str] = "Codebook (shared weights)"
    requires: ClassVar[Requires] = Requires(dataset=True, labels=True)
    effect: ClassVar[Effect] = Effect(file_size="smaller", dense_latency="unchanged")
    references: ClassVar[tuple[Reference, ...]] = (
        Reference(
            title="Han, Mao, Dally, Deep Compression: Compressing Deep Neural Networks with Pruning, Trained Quantization and Huffman Coding, "
            "ICLR 2016",
            url="https://arxiv.org/abs/1510.00149",
        ),
    )
    examples: ClassVar = ({"method": "codebook", "bits": 4, "epochs": 2}, {"method": "codebook", "bits": 5, "epochs": 0})
    forbids_next: ClassVar = PACKED

    method: Literal["codebook"] = "codebook"
    bits: int = Field(4, ge=1, le=8)
    """Bits of an index: a layer has 2^bits values, zero among them where it was pruned."""
    initialization: Literal["linear", "density", "random"] = "linear"
    """Where k-means starts: evenly between the smallest and the largest weight (best in the paper), at equal shares of the weights, or at
    weights drawn at random."""
    learning_rate: float = Field(1e-4, gt=0, le=1000)
    """Peak learning rate of the training after it, in which a shared value moves by the sum of the gradients of its weights."""
    entropy_coded: bool = True
    """Whether the second file holds the indices in a Huffman code, where that is shorter."""

    @property
    def needs(self) -> Requires:
        """Nothing but the weights where the values are not trained."""
        trained = bool(self.epochs or self.iterations)
        return Requires(dataset=trained, labels=trained)

    def cost(self, facts: Facts) -> Cost:
        """One training."""
        return self.training_cost(facts) + Cost(copies=MASKED_COPIES)
