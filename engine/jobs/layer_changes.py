"""What became of each layer, with its share of the time and what steps measured of it alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.contract.report import LayerChange, LayerSensitivity, StepReport
from engine.measuring.layer_table import layer_table
from engine.measuring.profile import MOST_FILE_BYTES, MOST_MS, is_cheap

if TYPE_CHECKING:
    from engine.contract.figures import Timing
    from engine.jobs.inputs import JobInputs
    from engine.measuring.examiner.client import Examiner
    from engine.networks.network import Network

SLOW = f"a run takes more than {MOST_MS:g} ms, or a file has more than {MOST_FILE_BYTES >> 20} MiB: such files are not profiled"
BRANCHES = "the time of a file with branches or loops is not told apart by layers"


@dataclass(frozen=True)
class Layers:
    """The layers of the uploaded network."""

    changes: tuple[LayerChange, ...]
    not_profiled: str = SLOW
    """Why none has a share of the time; empty where they have."""

    @classmethod
    def compared(cls, inputs: JobInputs, file: Path) -> Layers:
        """Read off the uploaded network and a published file."""
        return cls(layer_table(inputs.onnx, file))

    def profiled(self, inputs: JobInputs, file: Path, network: Network, timing: Timing, examiner: Examiner) -> Layers:
        """The same with shares of the time, where both files are quick to profile."""
        sides = ((inputs.onnx, inputs.baseline, timing.baseline), (file, network, timing.result))
        if not self.changes or not all(is_cheap(path, latency.p50) for path, _, latency in sides):
            return self
        waiting = [examiner.profile(inputs.to_profile(path, of, latency)) for path, of, latency in sides]
        before, after = (found() for found in waiting)
        if not before and not after:
            return Layers(self.changes, BRANCHES)
        return Layers(layer_table(inputs.onnx, file, (before, after)), "")


def with_sensitivities(changes: Sequence[LayerChange], steps: Sequence[StepReport]) -> tuple[LayerChange, ...]:
    """The layers with what the first step that measured it says of each; steps name a layer by its weight or by its operator."""
    known: dict[str, LayerSensitivity] = {}
    for step in reversed(steps):
        known |= step.sensitivities
    return tuple(item.model_copy(update={"sensitivity": known.get(item.name) or known.get(item.node)}) for item in changes)
