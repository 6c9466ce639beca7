"""What is measured on the uploaded network: the examiner does it beside the first step, until somebody asks."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cached_property

from engine.contract import events
from engine.contract.errors import EngineError
from engine.jobs import warnings
from engine.jobs.inputs import JobInputs
from engine.jobs.recorder import Recorder
from engine.measuring.examiner.client import Examiner
from engine.measuring.examiner.messages import Score
from engine.measuring.sizes import Sizes
from engine.methods.job_parts import Known
from engine.networks.network import Counts

LOADED = 0.02
"""Share of the job's progress at which its inputs are loaded."""


class Baseline:
    """Figures of the uploaded network; whoever asks first waits for them."""

    def __init__(self, inputs: JobInputs, examiner: Examiner, recorder: Recorder, sizes: Sizes) -> None:
        """Ask the examiner.

        Args:
            inputs: The job's inputs.
            examiner: Scores the network.
            recorder: Takes what the user should know about the examples.
            sizes: Compresses the uploaded file.
        """
        recorder.phase("baseline", LOADED)
        self._unread, self._examiner, self._recorder = inputs, examiner, recorder
        self._waiting = examiner.score(inputs.to_score(inputs.onnx))
        sizes.begin(inputs.upload)
        self.waited = 0.0
        """Seconds that somebody waited."""

    @cached_property
    def score(self) -> Score:
        """What the examiner found.

        Raises:
            EngineError: `non_finite_outputs`, or where a metric that the spec asks for cannot be measured; an error of no step, even if one was waiting.
        """
        self.count_beside()  # The examiner goes on meanwhile.
        begin = time.monotonic()
        try:
            found = self._waiting()
            self._unread.check(found)
        except EngineError:
            self._recorder.phase("baseline", LOADED)
            raise
        self.waited = time.monotonic() - begin
        for name, value in found.metrics.items():
            if value is not None:
                self._recorder.emit(events.MetricPoint(name=f"baseline.{name}", value=value))
        warnings.about_examples(self._recorder, self._unread, found)
        return found

    def check_metrics(self) -> None:
        """Wait for the score where metrics are asked for by name: what cannot be measured is refused before any work."""
        if self._unread.names_metrics:
            self.score  # noqa: B018 - checked when it comes

    @cached_property
    def inputs(self) -> JobInputs:
        """The job's inputs with what is known of the network's outputs."""
        return replace(self._unread, heads=self.score.heads)

    @cached_property
    def counts(self) -> Counts:
        """How large it is; waits for its score only where its sizes are open or what it computes depends on its input."""
        inputs = self._unread
        counts = inputs.baseline.count(None if inputs.has_known_sizes else self.score.shapes)
        if not inputs.baseline.input_dependent:
            return counts
        return replace(counts, macs_count=self._examiner.count(self.inputs.to_count(inputs.onnx))().macs_count)

    def count_beside(self) -> None:
        """Count it now, where that does not wait for the examiner."""
        if self._unread.has_known_sizes and not self._unread.baseline.input_dependent:
            self.counts  # noqa: B018 - kept

    def known(self) -> Known:
        """How its outputs are read."""
        return Known(self.score.heads, self.score.unused_targets)
