"""What one training says while it runs: how far it is, and the figures of its epochs, as series and in the step's report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from engine.methods.step import StepContext

if TYPE_CHECKING:
    from engine.training.loop import Moment

_PROGRESS_SECONDS = 0.2
_MOST_RECORDS = 1000
"""Epochs in a report; of a longer training every other one is dropped, again and again."""


class TrainingRecords:
    """Those of one training of a step; one that is not `reported` tells its progress only."""

    def __init__(self, context: StepContext, *, reported: bool, start_iteration: int) -> None:
        self._context, self._start_iteration = context, start_iteration
        self._records: list[dict[str, float]] = context.reported.setdefault("training", []) if reported else []
        self._epochs_before = len(self._records)
        self._clock = time.monotonic()

    def on_step(self, moment: Moment) -> None:
        """Tell the progress, now and then."""
        if time.monotonic() - self._clock > _PROGRESS_SECONDS or moment.iteration == moment.iterations:
            self._clock = time.monotonic()
            done = (moment.iteration - self._start_iteration) / max(1, moment.iterations - self._start_iteration)
            self._context.progress(done, f"epoch {moment.epoch}, step {moment.iteration}/{moment.iterations}")

    def on_epoch(self, moment: Moment, record: dict[str, float]) -> None:
        """Tell the figures of an epoch that has just ended."""
        self.add(record)

    def add(self, record: Mapping[str, float]) -> None:
        """Tell the figures of an epoch."""
        self._records.append(dict(record))
        if len(self._records) > _MOST_RECORDS:
            del self._records[1:-1:2]
        for name, value in record.items():
            if name != "epoch":
                self._context.metric(name, value, step=self._epochs_before + int(record["epoch"]))
