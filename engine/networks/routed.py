"""A module that writes its graph itself: one that decides by its input what it computes (early exits, blocks that are skipped)."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from engine.networks.network import Signature

NEAR = 1e-5
"""A decision that is nearer than this to its threshold (a share of it, where that is more than one) hangs on rounding, which costs some 1e-6."""


class RoutedModule(nn.Module):
    """Base of such modules. Tracing sees one route only, so they write their graph themselves, with an If for every decision.

    What they compute for one example is the same whatever else is in its batch. Their multiply-accumulates are a mean that is
    measured on the file and the evaluated examples.
    """

    input_dependent = True
    """False for a module that takes one route, and is written as a part of one that takes several."""

    def borderline(self, *inputs: Tensor) -> Tensor:
        """Of each example (N), whether one of its decisions hangs on rounding: another runtime may send it another way."""
        raise NotImplementedError

    def write_onnx(self, signature: Signature, path: Path, *, half: bool) -> None:
        """Write a plain copy (`plain()`) of the module: names of the signature, first dimension open. Raises `export_failed`."""
        raise NotImplementedError
