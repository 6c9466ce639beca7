"""Parameters that several quantization methods share."""

from typing import Literal

from pydantic import Field

from engine.contract.params import Params

LAST = {"*": "a quantized graph cannot be trained or pruned further: put quantization last"}
"""What may follow a method that ends in a quantized graph: nothing."""
ACTIVATION_BYTES = 128 << 20
"""Bound on the activations of one calibration batch, as far as one example stays within it."""


class Calibration(Params):
    """Which examples show the range of the activations; never the test split."""

    samples: int = Field(300, ge=1, le=1_000_000)
    """Number of training examples, drawn with the job's seed."""
    observer: Literal["minmax", "entropy", "percentile"] = "minmax"
    """How a range is read off the observed values."""
    percentile: float = Field(99.999, gt=50, le=100)
    """Share, in percent, of the values that `percentile` keeps inside the range."""
    batch_size: int | None = Field(None, ge=1, le=4096)
    """Examples in one calibration run, without effect on the result; by default as many as keep the activations within 128 MiB."""
