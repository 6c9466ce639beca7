"""The one place that turns the end of a child into what the user reads."""

import errno
import signal
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from core.blobs.staged import free_bytes
from core.errors import ChecksumMismatch, ServiceError, StorageFull
from core.jobs import JobError
from engine.contract.events import Done, Failed
from engine.process.launcher import Exit, LaunchError
from engine.process.sandbox.probe import Isolation
from worker.publishing import ManifestError
from worker.stop import Reason
from worker.supervision import Watched
from worker.transcript import Transcript

_NO_ROOM_BYTES = 1 << 20
_CRASHES = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGSYS, signal.SIGTRAP})


def error_of(
    watched: Watched,
    transcript: Transcript,
    reason: Reason | None,
    *,
    timeout_seconds: float,
    memory_bytes: int,
    inspection: bool,
    starved: bool,
    full: bool,
) -> JobError | None:
    """Why the attempt failed; None if the child did its job. For reasons that are no failure (cancelled, drained) do not ask.

    Args:
        watched: How the child ended.
        transcript: Its events.
        reason: What stopped it, if anything did.
        timeout_seconds: Wall-clock limit of the attempt.
        memory_bytes: What the job was allowed.
        inspection: Whether it looked into an upload.
        starved: Whether the kernel's out-of-memory killer was at work meanwhile.
        full: Whether the disk of the job's directory has no room left.
    """
    ending = transcript.ending
    where = f"in phase {transcript.phase!r}"
    if reason is Reason.TIMEOUT and inspection:
        return JobError.of(
            "timeout",
            "resource",
            f"Looking into the file took longer than {timeout_seconds:g} seconds and was stopped {where}.",
            hint="Simplify the graph before uploading it (constant folding, fewer operators), or ask the operator to raise "
            "MODELPRESS_INSPECTION_SECONDS.",
        )
    if reason is Reason.TIMEOUT:
        return JobError.of(
            "timeout",
            "resource",
            f"The job ran longer than {timeout_seconds:g} seconds and was stopped {where}.",
            hint="Raise limits.timeout_seconds, or train for fewer epochs.",
        )
    if reason is Reason.OUT_OF_MEMORY:
        return _out_of_memory(f"The job's processes took more than the {memory_bytes >> 20} MiB of memory that they may have, {where}.")
    if reason is Reason.TOO_MANY_PROCESSES:
        return JobError.of("too_many_processes", "resource", f"The job started more processes than it may have, {where}.")
    if reason is Reason.TOO_MUCH_ON_DISK:
        message = f"The job filled its folder with more than it may, {where}."
        return JobError.of("out_of_disk", "resource", message, hint="The operator sets MODELPRESS_JOB_DISK_BYTES and MODELPRESS_JOB_FILES.")
    if watched.protocol_error is not None:
        return _protocol(f"The job's process broke the protocol {where}: {watched.protocol_error}.")
    if isinstance(ending, Failed):
        error = ending.error
        if error.code == "child_killed" and starved:
            return _out_of_memory(f"The kernel ran out of memory and ended a process of the job {where}.")
        if full and error.details.get("signal") == signal.SIGBUS:
            return _out_of_disk(where)
        return error
    if watched.exit.returncode < 0:
        if full and watched.exit.returncode == -signal.SIGBUS:
            return _out_of_disk(where)
        return _killed(watched.exit, where, starved=starved)
    if isinstance(ending, Done) and watched.exit.returncode == 0:
        return None
    return _protocol(f"The job's process ended with status {watched.exit.returncode} {where} and without a result.")


def _killed(exit_: Exit, where: str, *, starved: bool) -> JobError:
    number = -exit_.returncode
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    if exit_.parent_lost:
        return JobError.of("child_killed", "transient", f"The parent of the job's process ended {where}.", retryable=True)
    if number == signal.SIGKILL and starved:
        return _out_of_memory(f"The kernel ran out of memory and ended the job's process {where}.")
    if number == signal.SIGXCPU:
        return JobError.of("timeout", "resource", f"The job used up its processor time {where}.", hint="Raise limits.timeout_seconds.")
    if number in _CRASHES:
        message = f"The job's process crashed with {name} {where}; its log may say more."
        return JobError.of("child_crashed", "internal", message, hint="Please report it with the model, if you can share it.")
    return JobError.of("child_killed", "transient", f"The job's process was ended from outside with {name} {where}.", retryable=True)


def _out_of_memory(message: str) -> JobError:
    hint = (
        "Use a smaller batch size, or raise limits.memory_bytes; more than its share of the machine no job gets, unless the operator sets "
        "MODELPRESS_JOB_MEMORY_BYTES."
    )
    return JobError.of("out_of_memory", "resource", message, hint=hint)


def _out_of_disk(where: str) -> JobError:
    """Writing to the memory of a file for which there is no room ends a process with SIGBUS."""
    message = f"The disk of the job's directory was full {where}."
    return JobError.of("out_of_disk", "resource", message, hint="Free space on the worker, then retry.", retryable=True)


def _protocol(message: str) -> JobError:
    return JobError.of("child_protocol", "internal", message)


def is_full(directory: Path) -> bool:
    """Whether the disk of a directory has no room."""
    try:
        return free_bytes(directory) < _NO_ROOM_BYTES
    except OSError:  # it is gone, which is reported elsewhere
        return False


def out_of_memory_kills() -> int:
    """How often the kernel's out-of-memory killer has struck on this machine, control groups included."""
    for line in Path("/proc/vmstat").read_text().splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill":
            return int(value)
    return 0


def of_exception(error: Exception) -> JobError:
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
            # An OSError's own text names paths of this machine.
            reason = error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)
            return JobError.of(
                "storage_unavailable", "transient", f"A file of the job could not be read or stored: {reason}.", retryable=True
            )
        case ManifestError():
            return JobError.of("child_protocol", "internal", f"The job's process did not deliver what it announced: {error}.")
        case LaunchError():
            return JobError.of("child_killed", "transient", f"The job's process could not be started: {error}.", retryable=True)
        case _:
            return JobError.of("internal_error", "internal", f"The worker failed: {type(error).__name__}.", hint="Its log says more.")


def swept() -> JobError:
    """The job's folder is gone."""
    message = "The job's directory was removed from outside while it ran."
    hint = "Keep cleaners of temporary files away from the service's data folder."
    return JobError.of("storage_unavailable", "transient", message, hint=hint, retryable=True)


def isolation_unavailable(isolation: Isolation, minimum: int) -> JobError:
    """The confinement that this worker has is weaker than the operator asks for."""
    opened = [name for name, answer in isolation.probe.items() if answer == "open"]
    return JobError.of(
        "isolation_unavailable",
        "resource",
        f"The operator asks for isolation tier {minimum} and this worker reaches tier {isolation.tier}.",
        hint="Run the worker where the kernel offers Landlock, seccomp and, for jobs with several devices, user namespaces; "
        "or lower MODELPRESS_ISOLATION_MINIMUM.",
        details={"open": opened},
    )
