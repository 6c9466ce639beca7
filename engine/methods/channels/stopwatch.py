"""How long a candidate takes in ONNX Runtime, as a share of what the original takes."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import onnxruntime as ort
from torch import nn

from engine.formats.onnx import runtime
from engine.formats.onnx.networks import ModuleNetwork
from engine.measuring import measurement
from engine.measuring.examples import Examples
from engine.methods.context import Context
from engine.structure.channels import Inputs

REPEATS = 60
"""Timed pairs of runs a candidate; the share is their median, so a disturbed run does not count."""


@dataclass(frozen=True)
class _OneExample:
    """The example that every run computes."""

    values: runtime.Feed

    def feed(self, size: int) -> runtime.Feed:
        """The first `size` examples."""
        return {name: value[:size] for name, value in self.values.items()}


class Stopwatch:
    """Times modules against the one that it was made with, in turns, at batch size 1 and the job's number of threads."""

    def __init__(self, module: nn.Module, inputs: Inputs, context: Context) -> None:
        self._context = context
        context.reading()  # until then the job may be measuring the uploaded network beside
        self._examples = _OneExample({name: value.cpu().numpy() for name, value in zip(context.input_names, inputs, strict=True)})
        self._original = self._session(module)

    def latency_ratio(self, module: nn.Module) -> float:
        """Median of latency / latency of the original."""
        ratio: float = self._context.replicas.once(lambda: self._measured(module))
        return ratio

    def _measured(self, module: nn.Module) -> float:
        sessions = [self._original, self._session(module)]
        (timing,) = measurement.timings(sessions, cast(Examples, self._examples), [1], threads=self._context.threads, repeats=REPEATS)
        return 1 / timing.speed.speedup

    def _session(self, module: nn.Module) -> ort.InferenceSession:
        with tempfile.TemporaryDirectory(dir=self._context.work) as folder:
            path = Path(folder) / "candidate.onnx"
            ModuleNetwork(self._context.signature, module).write_onnx(path)
            return runtime.open_session(path, threads=self._context.threads)
