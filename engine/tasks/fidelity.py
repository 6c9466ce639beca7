"""Anything else: what the output means is not known; it is to stay what the uploaded model gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.contract.heads import Head
from engine.outputs.evidence import Column, Output
from engine.tasks import Task

if TYPE_CHECKING:
    from engine.contract.metadata import OutputMeaning


class Fidelity(Task):
    """Matched by mean squared error, measured by signal-to-noise ratio and cosine; it cannot be trained on targets."""

    name = "fidelity"
    order = 1000

    def read(self, outputs: Sequence[Output], column: Column | None, declared: OutputMeaning | None) -> Head | str:
        """Every output, without targets."""
        (output,) = outputs
        if column is not None:
            return f"the {column.described} does not fit {output.described}"
        return Head(
            name=output.name, indices=(output.index,), task=self.name, reason="declared" if declared else "what it means is not known"
        )


TASK = Fidelity()
