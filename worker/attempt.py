"""One attempt at one job, from the claim to the last transaction."""

import errno
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy.exc import SQLAlchemyError

from core import failpoints, jobs
from core.database.db import Session
from core.errors import ChecksumMismatch, LeaseLost, ServiceError, StorageFull, Unavailable
from core.jobs import JobError
from core.logging import logger
from core.service import Service
from engine.contract import events
from engine.contract.figures import Measured, Outcome, Summary
from engine.contract.job import DRAIN_FILE
from engine.process.launcher import Launcher, LaunchError
from engine.process.request import Limits, Request
from engine.process.sandbox.probe import Isolation
from worker import endings
from worker.devices import Device, machine_memory_bytes
from worker.publishing import ManifestError, publish, read_result, store_checkpoint
from worker.pulse import Pulse
from worker.staging import stage
from worker.stop import Reason, Stop, Stopped
from worker.supervision import Bounds, Watched, watch
from worker.transcript import Transcript
from worker.workplace import Workplace

ENTRY = "engine.jobs.run:run_job"
THREADS = 1
"""Numerical threads of a child: more of them slow small networks down on a busy machine."""
_SHARED_BYTES = 1 << 30
"""Resident memory that each process of a job has in common with its parent, roughly: libraries that everyone maps."""
_RETRY_SECONDS = 0.5
INSPECTION: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])
_log = logger(__name__)

End = Callable[[Session], object]


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
        entry: str = ENTRY,
    ) -> None:
        self._service = service
        self._claim = claim
        self._launcher = launcher
        self._isolation = isolation
        self._device = device
        self._workplace = workplace
        self._entry = entry
        self._stop = Stop()
        self._draining = threading.Event()
        self._directory: Path | None = None
        self._starting_since: float | None = None
        state = claim.checkpoint_state or {}
        self._transcript = Transcript(claim.steps, claim.warnings, state.get("step_index") if claim.checkpoint else None)

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
                    end = self._failed(_error_of(error))
                self._write(end)
        finally:
            self._pulse.end()
            self._stop.close()

    def _work(self, directory: Path) -> End | None:
        if self._isolation.tier < self._service.settings.isolation_minimum:
            return self._failed(_isolation_unavailable(self._isolation, self._service.settings.isolation_minimum))
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
        kills = endings.out_of_memory_kills()
        watched = self._run_child(directory)
        failpoints.hit("worker.child_ended")
        if self._stop.reason in (Reason.CANCELLED, Reason.LEASE_LOST):
            return self._stopped()
        error = endings.error_of(
            watched,
            self._transcript,
            self._stop.reason,
            timeout_seconds=self._claim.timeout_seconds,
            starved=endings.out_of_memory_kills() > kills,
            full=endings.is_full(directory),
        )
        if error is not None and not (directory / "job.json").exists() and self._stop.reason is None:
            return self._failed(_swept())
        if error is not None and self._stop.reason is Reason.DRAINED:
            return self._stopped()
        if error is not None:
            return self._failed(error)
        done = self._transcript.ending
        assert isinstance(done, events.Done)
        result, settings = self._result(done, directory)
        artifacts = publish(self._transcript.artifacts, directory, self._service.blobs, self._stop, settings)
        failpoints.hit("worker.published")
        if done.error is not None:
            return self._failed(done.error, outcome=done.outcome, result=result, artifacts=artifacts)
        claim = self._claim
        return lambda session: jobs.finish(
            session,
            claim.job_id,
            claim.fence,
            outcome=done.outcome,
            result=result,
            artifacts=artifacts,
            report=self._transcript.report(),
        )

    def _result(self, done: events.Done, directory: Path) -> tuple[dict[str, Any], dict[str, Measured]]:
        """What the job came to, as JSON types, and its figures by the names of the settings. Raises ManifestError."""
        content = read_result(done.result, directory)
        try:
            if not self._claim.shown:
                return INSPECTION.validate_json(content or b"{}"), {}
            if content is None:
                raise ManifestError("a compression ended without figures")
            summary = Summary.model_validate_json(content)
        except ValueError as error:
            raise ManifestError(f"the job's result is of another form: {str(error)[:500]}") from None
        return summary.model_dump(mode="json"), {item.setting.name: item for item in summary.settings}

    def _run_child(self, directory: Path) -> Watched:
        limits, count = self._claim.spec["limits"], self._claim.devices
        memory = min(limits["memory_bytes"] or machine_memory_bytes(), machine_memory_bytes())
        cpu_seconds = math.ceil(self._claim.timeout_seconds * (os.cpu_count() or 1)) + 60
        request = Request(
            directory,
            entry=self._entry,
            layers=self._isolation.layers,
            # CUDA maps more private memory than it uses: on a GPU the supervisor's own count must do
            limits=Limits(memory_bytes=None if self._device.gpus else memory, cpu_seconds=cpu_seconds),
            environment=self._device.environment(count),
            gpu=bool(self._device.gpus),
            sockets=self._isolation.sockets,
        )
        self._stop.check()
        self._directory = directory
        if self._draining.is_set():
            self._ask_for_checkpoint()
        self._starting_since = time.monotonic()
        try:
            child = self._launcher.start(request)
        finally:
            self._starting_since = None
        failpoints.hit("worker.child_started")
        bounds = Bounds(self._claim.timeout_seconds, memory + count * _SHARED_BYTES)
        return watch(child, self._transcript, self._stop, bounds, lambda event: self._hear(event, directory))

    def _hear(self, event: events.Event, directory: Path) -> None:
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
            self._transcript.note(f"warning: a checkpoint could not be stored: {error}")
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
        self._transcript.close_running_steps("pending" if error.category == "transient" else "failed")
        return lambda session: jobs.fail(
            session,
            claim.job_id,
            claim.fence,
            error,
            outcome=outcome,
            result=result,
            artifacts=artifacts,
            report=self._transcript.report(),
            retry_delay_seconds=self._service.settings.retry_delay_seconds * 2 ** (claim.attempt - 1),
        )

    def _stopped(self) -> End | None:
        claim = self._claim
        match self._stop.reason:
            case Reason.CANCELLED:
                self._transcript.close_running_steps("cancelled")
                return lambda session: jobs.cancelled(session, claim.job_id, claim.fence, report=self._transcript.report())
            case Reason.DRAINED:
                self._transcript.close_running_steps("pending")
                return lambda session: jobs.release(session, claim.job_id, claim.fence, report=self._transcript.report())
            case _:
                _log.warning("lease lost")
                return None

    def _write(self, end: End | None) -> None:
        """Write the end, again and again while the database does not answer and the lease holds."""
        while end is not None:
            try:
                with self._service.database.unit_of_work() as session:
                    end(session)
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


def _error_of(error: Exception) -> JobError:
    """What an exception of the supervisor means for the job."""
    match error:
        case ChecksumMismatch():
            return JobError.of("checksum_mismatch", "internal", error.message, hint=error.hint)
        case StorageFull():
            return JobError.of("out_of_disk", "resource", f"The service's disk is full: {error.message}.", hint=error.hint, retryable=True)
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            message = "The disk of the job's directory is full."
            return JobError.of("out_of_disk", "resource", message, hint="Free space on the worker, then retry.", retryable=True)
        case ServiceError() | OSError() | SQLAlchemyError():
            return JobError.of(
                "storage_unavailable", "transient", f"A file of the job could not be read or stored: {error}.", retryable=True
            )
        case ManifestError():
            return JobError.of("child_protocol", "internal", f"The job's process announced a file that is not there: {error}.")
        case LaunchError():
            return JobError.of("child_killed", "transient", f"The job's process could not be started: {error}.", retryable=True)
        case _:
            return JobError.of("internal_error", "internal", f"The worker failed: {type(error).__name__}.", hint="Its log says more.")


def _swept() -> JobError:
    message = "The job's directory was removed from outside while it ran."
    hint = "Keep cleaners of temporary files away from the service's data folder."
    return JobError.of("storage_unavailable", "transient", message, hint=hint, retryable=True)


def _isolation_unavailable(isolation: Isolation, minimum: int) -> JobError:
    opened = [name for name, answer in isolation.probe.items() if answer == "open"]
    return JobError.of(
        "isolation_unavailable",
        "resource",
        f"The operator asks for isolation tier {minimum} and this worker reaches tier {isolation.tier}.",
        hint="Run the worker where the kernel offers Landlock, seccomp and, for jobs with several devices, user namespaces; "
        "or lower MODELPRESS_ISOLATION_MINIMUM.",
        details={"open": opened},
    )
