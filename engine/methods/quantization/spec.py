"""Parameters of the quantization family: weights and activations in few bits."""

from typing import ClassVar, Literal

from engine.contract.cost import NOTHING, Cost, Facts
from engine.contract.method import Effect, MethodParams, Reference, Requires
from engine.contract.params import LayerPattern
from engine.methods.quantization.spec_few_bits import BinaryConnect, Codebook, Ternary
from engine.methods.quantization.spec_shared import ACTIVATION_BYTES, LAST, Calibration
from engine.methods.quantization.spec_training import QuantizationAwareTraining

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
]

_REFERENCES = (
    Reference(
        title="Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018",
        url="https://arxiv.org/abs/1712.05877",
    ),
    Reference(
        title="ONNX Runtime: Quantize ONNX models", url="https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html"
    ),
)


class StaticQuantization(MethodParams):
    """Weights and activations in 8-bit integers, with activation ranges measured on calibration examples.

    The published ONNX file carries QuantizeLinear/DequantizeLinear pairs that ONNX Runtime turns into integer kernels.
    """

    title: ClassVar[str] = "Static int8 quantization"
    requires: ClassVar[Requires] = Requires(dataset=True, trainable=False)
    effect: ClassVar[Effect] = Effect(file_size="smaller", dense_latency="depends_on_hardware")
    references: ClassVar[tuple[Reference, ...]] = _REFERENCES
    examples: ClassVar = ({"method": "static_quantization", "calibration": {"samples": 300}},)
    forbids_next: ClassVar = LAST

    method: Literal["static_quantization"] = "static_quantization"
    scheme: Literal["W8A8"] = "W8A8"
    """Bits of weights and activations."""
    granularity: Literal["channel", "tensor"] = "channel"
    """One weight scale for every output channel, or one for the whole tensor."""
    operators: Literal["weighted", "all"] = "weighted"
    """`weighted`: convolutions and matrix products with stored weights, and what stands between two of them without harm. `all`: whatever
    the runtime has an integer kernel for, attention scores and softmax too."""
    symmetric: bool = False
    """Signed activations around zero instead of an unsigned range with a zero point."""
    reduce_range: bool | None = None
    """Seven-bit weights, which avoid saturation in 8-bit kernels without VNNI; by default on where the measuring CPU lacks VNNI."""
    calibration: Calibration = Calibration()
    """The examples that show the activation ranges."""
    ignore: tuple[LayerPattern, ...] = ()
    """Nodes that stay in floating point, by name, glob, `re:` pattern or operator type."""

    def cost(self, facts: Facts) -> Cost:
        """The calibration."""
        return Cost(calibration_samples=self.calibration.samples, activation_bytes=ACTIVATION_BYTES)


class DynamicQuantization(MethodParams):
    """Weights in 8-bit integers; activation ranges are found while the network runs. Needs no data."""

    title: ClassVar[str] = "Dynamic int8 quantization"
    requires: ClassVar[Requires] = Requires(trainable=False)
    effect: ClassVar[Effect] = Effect(file_size="smaller", dense_latency="depends_on_hardware")
    references: ClassVar[tuple[Reference, ...]] = _REFERENCES
    examples: ClassVar = ({"method": "dynamic_quantization"},)
    forbids_next: ClassVar = LAST

    method: Literal["dynamic_quantization"] = "dynamic_quantization"
    granularity: Literal["channel", "tensor"] = "channel"
    """One weight scale for every output channel, or one for the whole tensor."""
    reduce_range: bool | None = None
    """Seven-bit weights, which avoid saturation in 8-bit kernels without VNNI; by default on where the measuring CPU lacks VNNI."""
    ignore: tuple[LayerPattern, ...] = ()
    """Nodes that stay in floating point, by name, glob, `re:` pattern or operator type."""

    def cost(self, facts: Facts) -> Cost:
        """No pass of any example."""
        return NOTHING


class Int8Quantization(MethodParams):
    """Weights in 8-bit integers, by whichever kind of quantization keeps the accuracy on this network.

    Tries in turn: static quantization, static quantization that leaves the operators in float whose inputs lose most to rounding, and
    dynamic quantization. With an accuracy target (`constraints.accuracy`) the smallest file that meets it is kept; without one the fastest
    that stays within one point of the original's top-1 accuracy or agreement (without classes: a cosine of 0.99). Where none does,
    the nearest is kept. The report holds every try.
    """

    title: ClassVar[str] = "Int8 quantization"
    requires: ClassVar[Requires] = Requires(dataset=True, trainable=False)
    effect: ClassVar[Effect] = Effect(file_size="smaller", dense_latency="depends_on_hardware")
    references: ClassVar[tuple[Reference, ...]] = _REFERENCES
    examples: ClassVar = ({"method": "int8_quantization"},)
    forbids_next: ClassVar = LAST

    method: Literal["int8_quantization"] = "int8_quantization"
    granularity: Literal["channel", "tensor"] = "channel"
    """One weight scale for every output channel, or one for the whole tensor."""
    reduce_range: bool | None = None
    """Seven-bit weights, which avoid saturation in 8-bit kernels without VNNI; by default on where the measuring CPU lacks VNNI."""
    calibration: Calibration = Calibration()
    """The examples that show the activation ranges."""
    ignore: tuple[LayerPattern, ...] = ()
    """Nodes that stay in floating point, by name, glob, `re:` pattern or operator type."""

    def cost(self, facts: Facts) -> Cost:
        """The calibration; the tries are measured like the result."""
        return Cost(calibration_samples=self.calibration.samples, activation_bytes=ACTIVATION_BYTES)
