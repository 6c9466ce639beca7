"""Parameters that several quantization methods share."""

from typing import ClassVar, Literal

from pydantic import Field

from engine.contract.method import Effect, MethodParams, Reference
from engine.contract.params import LayerPattern, Params

REFERENCES = (
    Reference(
        title="Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018",
        url="https://arxiv.org/abs/1712.05877",
    ),
    Reference(
        title="ONNX Runtime: Quantize ONNX models", url="https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html"
    ),
)

LAST = {"*": "a quantized graph cannot be trained or pruned further: put quantization last"}
"""What may follow a method that ends in a quantized graph: nothing."""
ACTIVATION_BYTES = 128 << 20
"""Bound on the activations of one calibration batch, as far as one example stays within it."""


class Calibration(Params):
    """Which examples show the range of the activations; never the test split."""

    samples: int = Field(300, ge=1, le=1_000_000)
    """Number of training examples, drawn with the job's seed."""
    observer: Literal["minmax", "percentile", "entropy", "mse"] = "minmax"
    """How a range is read off the observed values: the extremes, the extremes less a share, the range whose distribution diverges least
    (Kullback-Leibler), or the one that loses least (mean squared error)."""
    percentile: float = Field(99.999, gt=50, le=100)
    """Share, in percent, of the values that `percentile` keeps inside the range."""
    batch_size: int | None = Field(None, ge=1, le=4096)
    """Examples in one calibration run, without effect on the result; by default as many as keep the activations within 128 MiB."""


TargetCpu = Literal["portable", "vnni"]


class IntegerFields(MethodParams):
    """What all methods with 8-bit kernels share."""

    effect: ClassVar[Effect] = Effect(file_size="smaller", dense_latency="depends_on_hardware")
    references: ClassVar[tuple[Reference, ...]] = REFERENCES
    forbids_next: ClassVar = LAST
    leaves_graph: ClassVar = True

    granularity: Literal["channel", "tensor"] = "channel"
    """One weight scale for every output channel, or one for the whole tensor."""
    target_cpu: TargetCpu = "portable"
    """`portable`: weights whose 8-bit products saturate on no processor. `vnni`: the full range, for processors with VNNI, AMX or ARM
    only; on others it loses accuracy. The file is the same whichever machine runs the job."""
    reduce_range: bool | None = None
    """Weights that are kept so small that no kernel saturates; by default what `target_cpu` says."""
    ignore: tuple[LayerPattern, ...] = ()
    """Nodes that stay in floating point, by name, glob, `re:` pattern or operator type."""

    @property
    def reduces_range(self) -> bool:
        """Whether weights are kept small, whoever said so."""
        return self.target_cpu == "portable" if self.reduce_range is None else self.reduce_range
