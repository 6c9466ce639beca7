"""One attempt at one job, from the claim to the last transaction."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from core import failpoints, jobs
from core.database.db import Session
from core.errors import LeaseLost, ServiceError, StorageFull, Unavailable
from core.jobs import JobError
from core.logging import logger
from core.service import Service
from engine.contract import events
from engine.contract.figures import Outcome
from engine.contract.job import DRAIN_FILE
from engine.process.launcher import Launcher
from engine.process.sandbox.probe import Isolation
from worker import endings
from worker.allowance import MOST_TASKS, Allowance
from worker.cgroups import Groups, JobGroups
from worker.devices import Device
from worker.memory import bound_bytes
from worker.publishing import ManifestError, publish, read_result, store_checkpoint
from worker.pulse import Pulse
from worker.staging import stage
from worker.stop import Reason, Stop, Stopped
from worker.supervision import Watched, watch
from worker.traces import AttemptTrace
from worker.transcript import Transcript
from worker.workplace import Workplace

ENTRY = "engine.jobs.run:run_job"
THREADS = 1
"""Numerical threads of a child: more of them slow small networks down on a busy machine."""
_RETRY_SECONDS = 0.5
_log = logger(__name__)

End = Callable[[Session, jobs.Report], object]


class Attempt:
    """Runs a claimed job to an end: succeeded, failed, cancelled, given back, or taken away."""

    def __init__(
        self,
        service: Service,
        claim: jobs.Claim,
        *,
        launcher: Launcher,
        isolation: Isolation,
        device: Device,
        workplace: Workplace,
        groups: Groups,
        entry: str = ENTRY,
    ) -> None:
        self._service = service
        self._claim = claim
        self._launcher = launcher
        self._isolation = isolation
        self._device = device
        self._workplace = workplace
        self._groups = groups
        self._entry = entry
        self._stop = Stop()
        self._draining = threading.Event()
        self._directory: Path | None = None
        self._starting_since: float | None = None
        self._failure: str | None = None
        self._is_inspection = not claim.shown
        asked = claim.spec["limits"]["memory_bytes"]
        memory_bytes = bound_bytes(service.settings, asked=asked, inspection=self._is_inspection)
        self._allowance = Allowance(service.settings, claim, device, isolation, memory_bytes)
        state = claim.checkpoint_state or {}
        self._transcript = Transcript(claim.steps, claim.warnings, state.get("step_index") if claim.checkpoint else None)
        self._trace = AttemptTrace(claim, device.name)
        self._pulse = Pulse(service, claim, self._transcript, self._stop)

    def drain(self) -> None:
        """End at the next checkpoint, after `drain_seconds` at the latest, and give the job back. Callable from any thread."""
        if not self._draining.is_set():
            self._draining.set()
            self._ask_for_checkpoint()
            timer = threading.Timer(self._service.settings.drain_seconds, self._stop.ask, [Reason.DRAINED])
            timer.daemon = True
            timer.start()

    @property
    def waits_for_child_seconds(self) -> float | None:
        """How long the start of the child has taken so far; None before and after."""
        since = self._starting_since
        return None if since is None else time.monotonic() - since

    def _ask_for_checkpoint(self) -> None:
        if self._directory is not None:
            with suppress(OSError):  # gone with the attempt, or there already: never through a link that the child laid
                os.close(os.open(self._directory / DRAIN_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))

    def run(self) -> None:
        """Do it. Raises nothing that belongs to the job; its directory is gone afterwards."""
        self._pulse.start()
        try:
            with ExitStack() as stack:
                try:
                    directory = stack.enter_context(self._workplace.directory(f"{self._claim.job_id}-{self._claim.fence}"))
                    end = self._work(directory)
                except Stopped:
                    end = self._stopped()
                except Exception as error:
                    _log.exception("attempt failed")
                    end = self._failed(endings.of_exception(error))
                self._write(end)
        finally:
            self._trace.end(self._failure)
            self._pulse.end()
            self._stop.close()

    def _work(self, directory: Path) -> End | None:
        if self._isolation.tier < self._service.settings.isolation_minimum:
            return self._failed(endings.isolation_unavailable(self._isolation, self._service.settings.isolation_minimum))
        stage(
            self._claim,
            self._service.blobs,
            directory,
            self._stop,
            device=self._device.torch,
            threads=THREADS,
            checkpoint_seconds=self._service.settings.checkpoint_seconds,
        )
        failpoints.hit("worker.staged")
        with self._groups.of_job(self._allowance.bound_bytes, MOST_TASKS) as groups:
            group, kills = groups.own, endings.out_of_memory_kills()
            watched = self._run_child(directory, groups)
            starved = bool(group.out_of_memory_kills()) if group is not None else endings.out_of_memory_kills() > kills
        failpoints.hit("worker.child_ended")
        if self._stop.reason in (Reason.CANCELLED, Reason.LEASE_LOST):
            return self._stopped()
        error = endings.error_of(
            watched,
            self._transcript,
            self._stop.reason,
            timeout_seconds=self._claim.timeout_seconds,
            memory_bytes=self._allowance.memory_bytes,
            inspection=self._is_inspection,
            starved=starved,
            full=endings.is_full(directory),
        )
        if error is not None and not (directory / "job.json").exists() and self._stop.reason is None:
            return self._failed(endings.swept())
        if error is not None and self._stop.reason is Reason.DRAINED:
            return self._stopped()
        if error is not None:
            return self._failed(error)
        done = self._transcript.ending
        assert isinstance(done, events.Done)
        result, settings = read_result(done.result, directory, inspection=None if self._claim.shown else self._claim.kind)
        artifacts = publish(self._transcript.artifacts, directory, self._service.blobs, self._stop, settings)
        failpoints.hit("worker.published")
        if done.error is not None:
            return self._failed(done.error, outcome=done.outcome, result=result, artifacts=artifacts)
        claim = self._claim
        return lambda session, report: jobs.finish(
            session,
            claim.job_id,
            claim.fence,
            outcome=done.outcome,
            result=result,
            artifacts=artifacts,
            report=report,
        )

    def _run_child(self, directory: Path, groups: JobGroups) -> Watched:
        request, bounds = self._allowance.request(self._entry, directory, groups), self._allowance.bounds(directory, groups)
        self._stop.check()
        self._directory = directory
        if self._draining.is_set():
            self._ask_for_checkpoint()
        self._starting_since = time.monotonic()
        self._trace.child_starts()
        try:
            child = self._launcher.start(request)
        finally:
            self._starting_since = None
        failpoints.hit("worker.child_started")
        watched = watch(child, self._transcript, self._stop, bounds, lambda event: self._hear(event, directory))
        self._trace.child_ended(watched.exit.returncode)
        return watched

    def _hear(self, event: events.Event, directory: Path) -> None:
        self._trace.hear(event)
        if isinstance(event, events.Phase | events.StepStarted | events.StepFinished):
            self._pulse.nudge()
        if not isinstance(event, events.Checkpointed):
            return
        try:
            blob = store_checkpoint(event, directory, self._service.blobs)
            with self._service.database.unit_of_work() as session:
                jobs.checkpoint(session, self._claim.job_id, self._claim.fence, blob, {"step_index": event.step_index})
        except LeaseLost:
            self._stop.ask(Reason.LEASE_LOST)
        except (ManifestError, ServiceError, SQLAlchemyError, OSError) as error:
            # The job goes on; another attempt would begin further back.
            _log.warning("checkpoint not stored", error=str(error))
            self._transcript.note(f"a checkpoint could not be stored: {error}", "warning")
        else:
            failpoints.hit("worker.checkpointed")
            if self._draining.is_set():
                self._stop.ask(Reason.DRAINED)

    def _failed(
        self,
        error: JobError,
        *,
        outcome: Outcome | None = None,
        result: dict[str, Any] | None = None,
        artifacts: Sequence[jobs.NewArtifact] = (),
    ) -> End:
        """The attempt failed; one that was done and only missed its targets still shows what it made."""
        claim = self._claim
        self._failure = error.code
        if self._transcript.ending is None:  # otherwise the process itself said so
            self._transcript.note(f"{error.message} [{error.code}]", "error")
        self._transcript.close_running_steps("pending" if error.category == "transient" else "failed")
        return lambda session, report: jobs.fail(
            session,
            claim.job_id,
            claim.fence,
            error,
            outcome=outcome,
            result=result,
            artifacts=artifacts,
            report=report,
            retry_delay_seconds=self._service.settings.retry_delay_seconds * 2 ** (claim.attempt - 1),
        )

    def _stopped(self) -> End | None:
        claim = self._claim
        match self._stop.reason:
            case Reason.CANCELLED:
                self._transcript.close_running_steps("cancelled")
                return lambda session, report: jobs.cancelled(session, claim.job_id, claim.fence, report=report)
            case Reason.DRAINED:
                self._transcript.close_running_steps("pending")
                return lambda session, report: jobs.release(session, claim.job_id, claim.fence, report=report)
            case _:
                _log.warning("lease lost")
                return None

    def _write(self, end: End | None) -> None:
        """Write the end, again and again while the database does not answer and the lease holds."""
        while end is not None:
            try:
                with self._transcript.reporting() as report, self._service.database.unit_of_work() as session:
                    end(session, report)
            except LeaseLost:
                _log.warning("lease lost at the end")
                return
            except (Unavailable, StorageFull, SQLAlchemyError) as error:
                _log.warning("end not written", error=str(error).splitlines()[0])
                if self._stop.reason is Reason.LEASE_LOST:
                    return
                time.sleep(_RETRY_SECONDS)
            else:
                failpoints.hit("worker.end_written")
                return
