"""Parameters of the quantization family: weights and activations in few bits."""

from typing import ClassVar, Literal

from engine.contract.cost import NOTHING, Cost, Facts
from engine.contract.method import Requires
from engine.methods.quantization.spec_few_bits import BinaryConnect, Codebook, Ternary
from engine.methods.quantization.spec_shared import ACTIVATION_BYTES, Calibration, IntegerFields
from engine.methods.quantization.spec_training import QuantizationAwareTraining
from engine.methods.quantization.spec_weights import WeightOnlyQuantization

__all__ = [
    "ACTIVATION_BYTES",
    "BinaryConnect",
    "Calibration",
    "Codebook",
    "DynamicQuantization",
    "Int8Quantization",
    "QuantizationAwareTraining",
    "StaticQuantization",
    "Ternary",
    "WeightOnlyQuantization",
]

USUAL_TRIES = 3
"""Kinds that `int8_quantization` tries where the first is near enough."""


class StaticQuantization(IntegerFields):
    """Weights and activations in 8-bit integers, with activation ranges measured on calibration examples.

    The published ONNX file carries QuantizeLinear/DequantizeLinear pairs that ONNX Runtime turns into integer kernels.
    """

    title: ClassVar[str] = "Static int8 quantization"
    requires: ClassVar[Requires] = Requires(dataset=True, trainable=False)
    examples: ClassVar = ({"method": "static_quantization", "calibration": {"samples": 300}},)

    method: Literal["static_quantization"] = "static_quantization"
    scheme: Literal["W8A8"] = "W8A8"
    """Bits of weights and activations."""
    operators: Literal["weighted", "all"] = "weighted"
    """`weighted`: convolutions and matrix products with stored weights, and what stands between two of them without harm. `all`: whatever
    the runtime has an integer kernel for, attention scores and softmax too."""
    symmetric: bool = False
    """Signed activations around zero instead of an unsigned range with a zero point."""
    smoothing: bool = False
    """Makes the features that matrix products read alike in size, and lets the weights take up the difference (SmoothQuant): for transformers."""
    equalization: bool = False
    """Makes the channels between two convolutions or linear layers alike in size (cross-layer equalization), for `granularity: tensor` above all."""
    bias_correction: bool = False
    """Takes what rounding the weights shifts the mean of a channel by out of the bias of convolutions and Gemm."""
    rounding: Literal["nearest", "gptq", "adaround"] = "nearest"
    """How weights become integers: each to the nearest, or so that the layer's products on calibration examples stay close; `gptq` in one pass
    over its inputs, `adaround` by gradient descent on up or down."""
    mixed_precision: bool = False
    """Leaves products in float, those that lose most first, until the accuracy target is met (without one: until the result is within a point
    of the original)."""
    calibration: Calibration = Calibration()
    """The examples that show the activation ranges."""

    def cost(self, facts: Facts) -> Cost:
        """The calibration."""
        return Cost(calibration_samples=self.calibration.samples, activation_bytes=ACTIVATION_BYTES)


class DynamicQuantization(IntegerFields):
    """Weights in 8-bit integers; activation ranges are found while the network runs. Needs no data."""

    title: ClassVar[str] = "Dynamic int8 quantization"
    requires: ClassVar[Requires] = Requires(trainable=False)
    examples: ClassVar = ({"method": "dynamic_quantization"},)

    method: Literal["dynamic_quantization"] = "dynamic_quantization"
    convolutions: Literal["stored", "half", "integer"] | None = None
    """`stored`: weights in 8 bits, computed in float; the default. `half`: weights in float16, computed in float; the default for networks with
    recurrent layers, whose front ends and states make much of small errors. `integer`: computed in integers as well, which ONNX Runtime does
    more slowly than in float, and less exactly, because the range of a whole batch of images decides."""

    def cost(self, facts: Facts) -> Cost:
        """No pass of any example."""
        return NOTHING


class Int8Quantization(IntegerFields):
    """Weights in 8-bit integers, by whichever kind of quantization keeps the accuracy on this network.

    Tries in turn: static quantization, where that is too far static quantization of smoothed activations, static quantization that leaves the
    operators in float whose inputs lose most to rounding, and dynamic quantization. With an accuracy target (`constraints.accuracy`) the smallest file that meets it is kept; without one the fastest
    that stays within one point of the original's top-1 accuracy or agreement (without classes: a cosine of 0.99). Where none does,
    the nearest is kept. The report holds every try.
    """

    title: ClassVar[str] = "Int8 quantization"
    requires: ClassVar[Requires] = Requires(dataset=True, trainable=False)
    examples: ClassVar = ({"method": "int8_quantization"},)

    method: Literal["int8_quantization"] = "int8_quantization"
    calibration: Calibration = Calibration()
    """The examples that show the activation ranges."""

    def cost(self, facts: Facts) -> Cost:
        """The calibration; the tries are measured like the result."""
        return Cost(calibration_samples=self.calibration.samples, activation_bytes=ACTIVATION_BYTES, tried_files=USUAL_TRIES)
