"""Parameters of weight-only quantization."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from engine.contract.cost import NOTHING, Cost, Facts
from engine.contract.method import Effect, MethodParams, Reference, Requires
from engine.contract.params import LayerPattern
from engine.methods.quantization.spec_shared import ACTIVATION_BYTES, LAST, Calibration


class WeightOnlyQuantization(MethodParams):
    """Weights in few bits; whatever flows through the network stays in floating point. Needs no data but for `refinement: gptq`.

    `int8` stores one scale for each output channel and is widened by DequantizeLinear, which every runtime knows; `int4` stores a scale and a
    zero point for each group of inputs and runs in ONNX Runtime's MatMulNBits. Convolutions, linear layers, recurrent layers (in 8 bits) and
    embeddings (GatherBlockQuantized) are stored so. `float16` and `bfloat16` store each weight in half the bytes; what would not fit into
    their range stays wide. Inputs and outputs keep their types.
    """

    title: ClassVar[str] = "Weight-only quantization"
    requires: ClassVar[Requires] = Requires(trainable=False)
    effect: ClassVar[Effect] = Effect(file_size="smaller", dense_latency="depends_on_hardware")
    references: ClassVar[tuple[Reference, ...]] = (
        Reference(title="Frantar et al., GPTQ, ICLR 2023", url="https://arxiv.org/abs/2210.17323"),
        Reference(title="Badri and Shaji, Half-Quadratic Quantization, 2023", url="https://mobiusml.github.io/hqq_blog/"),
    )
    examples: ClassVar = (
        {"method": "weight_only_quantization"},
        {"method": "weight_only_quantization", "weights": "int4", "group_size": 64},
        {"method": "weight_only_quantization", "weights": "float16"},
    )
    forbids_next: ClassVar = LAST
    leaves_graph: ClassVar = True

    method: Literal["weight_only_quantization"] = "weight_only_quantization"
    weights: Literal["int8", "int4", "float16", "bfloat16"] = "int8"
    """What a weight is stored in."""
    group_size: Literal[16, 32, 64, 128, 256] | None = None
    """Inputs of an output that share a scale; by default 32 for `int4`, and all of them for `int8`."""
    symmetric: bool = False
    """Groups without a zero point. `int8` weights of one scale a channel have none anyway."""
    refinement: Literal["nearest", "hqq", "gptq"] = "hqq"
    """`nearest`: each weight to the nearest step. `hqq`: steps and zero points of groups that fit the weights best (one scale a channel reaches
    to its largest weight all the same). `gptq`: then weights rounded one input after the other so that the layer's products on training
    examples stay close. Without effect on `float16` and `bfloat16`."""
    activations: Literal["float32", "int8"] = "float32"
    """What packed matrix products compute in: `int8` rounds their inputs block by block while the network runs, which is faster and a little
    less exact. ONNX Runtime does so by itself with `int8` weights of one scale a channel."""
    calibration: Calibration = Field(default_factory=lambda: Calibration(samples=128))
    """The examples of `refinement: gptq`; its observer is not used."""
    ignore: tuple[LayerPattern, ...] = ()
    """Nodes whose weights stay as they are, by name, glob, `re:` pattern or operator type."""

    @property
    def needs(self) -> Requires:
        """A dataset where examples are looked at."""
        return Requires(dataset=self.reads_examples, trainable=False)

    @property
    def reads_examples(self) -> bool:
        """Whether weights are rounded by what examples make of them."""
        return self.refinement == "gptq" and self.weights in ("int8", "int4")

    def cost(self, facts: Facts) -> Cost:
        """The examples of `gptq`."""
        if not self.reads_examples:
            return NOTHING
        return Cost(calibration_samples=self.calibration.samples, activation_bytes=ACTIVATION_BYTES)

    @model_validator(mode="after")
    def _groups_belong_to_integers(self) -> Self:
        if self.weights in ("float16", "bfloat16") and (self.group_size is not None or self.activations == "int8"):
            raise ValueError(f"group_size and activations are for int8 and int4 weights, not for {self.weights}")
        return self
