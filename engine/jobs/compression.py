"""A compress job: load, score the baseline, walk the steps, publish the best state, report."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.contract import constraints, events
from engine.contract.errors import EngineError
from engine.contract.figures import Result
from engine.contract.files import FileRef
from engine.contract.job import RESULT, Job
from engine.contract.method import MethodParams
from engine.contract.report import StepReport
from engine.contract.spec import Spec
from engine.jobs import warnings
from engine.jobs.baseline import Baseline
from engine.jobs.each_setting import apply_step
from engine.jobs.inputs import JobInputs
from engine.jobs.judging import FileJudge
from engine.jobs.publication import Publication, figures_of, publish
from engine.jobs.recorder import Recorder
from engine.jobs.report import build
from engine.jobs.step_context import step_context
from engine.jobs.verdict import judged, missed
from engine.measuring.examiner.client import Examiner
from engine.measuring.examiner.messages import Score
from engine.measuring.figures import expected_work, shares
from engine.measuring.sizes import Sizes
from engine.methods.step import StepContext, implementation
from engine.networks.network import Network
from engine.process.memory import collector_paused, give_back_networks, present_objects_kept

if TYPE_CHECKING:
    from engine.training.parallel.replicas import Replicas

_SCORED, _WALKED, _EXPORTED, _VERIFIED = 0.06, 0.92, 0.94, 0.97
"""Shares of the job's progress at which the baseline, the steps, the export and its verification are done."""


@dataclass(frozen=True)
class State:
    """The network after a step."""

    network: Network
    step_index: int
    metrics: dict[str, float]
    score: Score | None
    """What the examiner found for the network's file, where it is one already."""


@dataclass(frozen=True)
class Candidate:
    """A published state beside the baseline."""

    publication: Publication
    result: Result


def compress(job: Job, directory: Path, emit: Callable[[events.Event], None], replicas: Replicas | None = None) -> None:
    """Run a compress job, up to its `done` event, from the checkpoint of an earlier attempt if there is one.

    The last state is published. Where it misses a target and `on_violation` is `keep_best`, the latest earlier state that met that of the
    accuracy in memory is published beside it, and the better one is kept: accuracy first, then the number of targets met.
    Of several `replicas` the first does all this, and the others take part in its trainings.

    Raises:
        EngineError: Whatever is wrong with the inputs, the network or the machine. A missed target is no error: it is an outcome.
    """
    if job.spec is None:
        raise EngineError("job_invalid", "The job has no spec.", category="internal")
    compression = _Compression(job, job.spec, directory, Recorder(emit), replicas)
    if replicas is None or replicas.rank == 0:
        compression.run()
    else:
        compression.follow()


class _Compression:
    """One run of one spec."""

    def __init__(self, job: Job, spec: Spec, directory: Path, recorder: Recorder, replicas: Replicas | None) -> None:
        self._job, self._spec, self._recorder, self._replicas = job, spec, recorder, replicas
        self._directory, self._out = directory, directory / "out"
        self._work = directory / "tmp" / (f"rank{replicas.rank}" if replicas is not None and replicas.rank > 0 else "")
        self._work.mkdir(exist_ok=True)
        self._steps: list[StepReport] = []

    def run(self) -> None:
        self._recorder.phase("loading", 0.0)
        with ThreadPoolExecutor(1) as aside, Examiner() as examiner, ExitStack() as during:
            self._sizes = Sizes(aside)
            self._inputs = JobInputs.load(self._job, self._spec, self._work, self._recorder.emit)
            self._baseline = Baseline(self._inputs, examiner, self._recorder, self._sizes)
            with collector_paused():
                context = step_context(self._inputs, self._directory, self._recorder.emit, baseline=self._baseline, replicas=self._replicas)
            during.enter_context(present_objects_kept())
            target = self._spec.constraints
            judge = FileJudge(self._baseline, None if target is None else target.accuracy, examiner)
            self._baseline.check_metrics()
            states = self._walk(replace(context, known=self._baseline.known, judge=judge), examiner)
            best = self._best(states, examiner)
        self._keep(best, states)
        self._finish(best)

    def follow(self) -> None:
        """Take the steps beside the first process as far as they train; nothing is scored or published here."""
        self._inputs = JobInputs.load(self._job, self._spec, self._work, self._recorder.emit)
        context = step_context(self._inputs, self._work, self._recorder.emit, baseline=None, replicas=self._replicas)
        network = self._inputs.baseline
        trained = max(index for index, step in enumerate(self._spec.steps) if step.needs.trainable)
        for index, step in enumerate(self._spec.steps[: trained + 1]):
            own = context.for_step(index, (0.0, 1.0), network)
            network = implementation(step)(network, step, own)
            first = network.at(network.settings[0])
            first.measure(on_file=lambda path: {}, on_module=partial(self._measured_beside, own, first))

    def _walk(self, context: StepContext, examiner: Examiner) -> list[State]:
        spans = shares([expected_work(step, self._inputs.facts) for step in self._spec.steps], _SCORED, _WALKED)
        states: list[State] = []
        network = self._inputs.baseline
        for index, step in enumerate(self._spec.steps):
            states.append(self._step(context.for_step(index, spans[index], network), index, step, network, examiner))
            network = states[-1].network
            give_back_networks()
        return states

    def _step(self, context: StepContext, index: int, step: MethodParams, network: Network, examiner: Examiner) -> State:
        begin, method, waited = time.monotonic(), step.wire_name(), self._baseline.waited
        self._recorder.emit(events.StepStarted(method=method, step_index=index))
        network = apply_step(step, network, context)
        self._inputs = self._baseline.inputs
        first = network.at(network.settings[0])
        to_score = partial(self._inputs.to_score, network=first, as_timed=first.batch_dependent)

        def scored(path: Path) -> Score:
            waiting = examiner.score(to_score(path))
            self._sizes.begin(path)
            self._baseline.count_beside()
            first.count(self._baseline.score.shapes)  # beside the scoring; kept
            return waiting()

        score = first.measure(on_file=scored, on_module=lambda module: None)
        if first.batch_dependent:
            context.report("scored_at_batch_size", self._spec.evaluation.latency.batch_sizes[0])
        metrics = self._measured_in_memory(context, first) if score is None else score.metrics
        if self._spec.constraints is None or self._spec.constraints.accuracy is None:
            warnings.about_step(
                self._recorder, step, index, self._steps[-1].metrics if self._steps else self._baseline.score.metrics, metrics
            )
        counts = asdict(first.count(self._baseline.score.shapes))
        metrics = {**metrics, **{name: value for name, value in counts.items() if value is not None}}
        for file in context.files:
            target = self._out / context.published_name(file.path)
            shutil.move(file.path, target)
            self._recorder.artifact(target, kind=file.kind, format=file.format, metrics=file.metrics, step_index=index)
        self._steps.append(
            StepReport(
                index=index,
                id=step.id,
                method=method,
                title=step.title,
                duration_seconds=time.monotonic() - begin - (self._baseline.waited - waited),
                metrics=metrics,
                report=context.reported,
                shown=context.displayed(),
                sensitivities=context.sensitivities,
            )
        )
        known = {name: value for name, value in metrics.items() if value is not None}
        self._recorder.emit(events.StepFinished(method=method, metrics=known, step_index=index))
        context.finished()
        return State(network, index, metrics, score)

    def _measured_beside(self, context: StepContext, network: Network, _: Any) -> dict[str, float]:
        """What the first process measures of the module, which every process takes part in."""
        return self._measured_in_memory(context, network)

    def _measured_in_memory(self, context: StepContext, network: Network) -> dict[str, float]:
        """Metrics of the network's module; nothing without examples."""
        from engine.methods.context import Context

        if not isinstance(context, Context):
            return {}
        if self._inputs.data is None:
            context.check_import()
            return {}
        self._inputs.added(network)
        return context.with_network(network).evaluate(network.module, self._inputs.split)

    def _best(self, states: list[State], examiner: Examiner) -> Candidate:
        final = self._candidate(states[-1], examiner)
        target = self._spec.constraints
        if target is None or target.on_violation == "fail" or final.result.outcome != "constraints_not_met":
            return final
        for state in reversed(states[:-1]):
            accuracy = target.accuracy
            if accuracy is None or constraints.accuracy_kept(accuracy, self._baseline.score.metrics, state.metrics, self._inputs.split):
                return max(
                    final,
                    self._candidate(state, examiner),
                    key=lambda candidate: constraints.rank(candidate.result.judged.verdict.constraints),
                )
        return final

    def _candidate(self, state: State, examiner: Examiner) -> Candidate:
        fractions = iter((_WALKED, _EXPORTED, _VERIFIED))
        publication = publish(
            state.network,
            state.step_index,
            self._inputs,
            examiner,
            self._work / f"candidate{state.step_index}",
            score=state.score,
            shapes=self._baseline.score.shapes,
            sizes=self._sizes,
            enter=lambda name: self._recorder.phase(name, next(fractions)),
        )
        baselines = [
            figures_of(
                self._baseline.score,
                self._sizes.of(self._inputs.upload),
                self._baseline.counts,
                tuple(timing.baseline for timing in item.timings),
            )
            for item in publication.measured
        ]
        return Candidate(publication, judged(publication.measured, baselines, self._spec.constraints, self._inputs.split))

    def _keep(self, best: Candidate, states: list[State]) -> None:
        """Move the files of the best candidate to the outputs and announce them."""
        kept = best.publication.step_index
        if kept != states[-1].step_index:
            self._recorder.warn(
                "earlier_state_kept",
                f"The last state missed a target; the one after step {kept} ({self._steps[kept].method}) misses fewer and was published.",
                step_index=kept,
            )
        for error in best.publication.refused:
            self._recorder.warn(error.code, " ".join(filter(None, (error.message, error.hint))), step_index=kept)
        for file in best.publication.files:
            target = self._out / file.path.name
            file.path.replace(target)
            self._recorder.artifact(
                target,
                kind="model",
                format=file.format,
                metrics=dict(file.metrics),
                gzip_bytes=file.sizes.gzip_bytes,
                settings=tuple(setting.name for setting in file.settings),
            )

    def _finish(self, best: Candidate) -> None:
        result = best.result
        warnings.about_result(self._recorder, self._inputs, best.publication.step_index, result)
        document = build(
            self._inputs,
            result,
            steps=self._steps,
            publication=best.publication,
            examples_count=self._baseline.score.examples_count,
            counted=self._baseline.score.counted,
            warnings=self._recorder.warnings,
            artifacts=self._recorder.artifacts,
            duration_seconds=self._recorder.seconds,
        )
        target = self._out / "report.json"
        target.write_text(document.model_dump_json(indent=1))
        self._recorder.artifact(target, kind="report", format="json", metrics={})
        summary = FileRef.write(self._directory, RESULT, result.summary().model_dump_json().encode())
        self._recorder.progress(1.0, "done")
        self._recorder.emit(events.Done(outcome=result.outcome, result=summary, error=missed(result, self._spec.constraints)))
