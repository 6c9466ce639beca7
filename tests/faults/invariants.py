"""The promises of the service, checked over its database, its blob store and what is left on the machine.

`violations` is run after every injected fault. What only a client can know (which submissions were answered, which ends were seen) is
handed in as `Seen`.
"""

import hashlib
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session, undefer

from core.blobs.digest import Blob
from core.database.clock import now
from core.database.tables import (
    Artifact,
    Dataset,
    IdempotencyKey,
    Job,
    JobEvent,
    LedgerEntry,
    Model,
    StoredBlob,
    Upload,
    Webhook,
    WebhookDelivery,
)
from core.errors import ServiceError
from core.jobs import EDGES, TERMINAL, Status
from core.service import Service
from tests.processes import alive

_STATUS_AFTER = {
    "created": Status.QUEUED,
    "started": Status.RUNNING,
    "requeued": Status.QUEUED,
    "released": Status.QUEUED,
    "succeeded": Status.SUCCEEDED,
    "failed": Status.FAILED,
    "cancelled": Status.CANCELLED,
}
_LOADERS = {
    "onnx": "import onnxruntime; onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])",
    "safetensors": "import safetensors.numpy; safetensors.numpy.load_file(path)",
    "json": "import json; json.load(open(path))",
}


@dataclass
class Seen:
    """What clients of the service know: the jobs that they were promised, the job of each key, the ends that they read."""

    accepted: set[str] = field(default_factory=set)
    by_key: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    deleted: set[str] = field(default_factory=set)
    ends: dict[str, str] = field(default_factory=dict)


def violations(
    service: Service,
    seen: Seen | None = None,
    *,
    settled: bool = True,
    load_artifacts: bool = True,
    orphans: set[int] | None = None,
    folders: tuple[Path, ...] = (),
) -> list[str]:
    """Every broken promise as a sentence that begins with its number.

    `settled`: no job is in work any more, so that none may be running. `orphans`: processes that must be gone.
    `folders`: such as work directories, which must be empty by now.
    """
    seen = seen or Seen()
    found: list[str] = []
    with service.database.reader() as session:
        jobs = list(session.scalars(select(Job)))
        histories = defaultdict(list)
        for event in session.scalars(select(JobEvent).order_by(JobEvent.job_id, JobEvent.seq)):
            histories[event.job_id].append(event)
        found += _promised(session, service, jobs, seen, settled)
        found += _artifacts(session, service, load_artifacts)
        for job in jobs:
            found += _history(job, histories[job.id])
            found += _says_why(job)
        found += _charges(session, jobs)
        found += _keys(session, seen)
        found += _projects(session, jobs)
        found += _messages(session, jobs, histories)
        found += _left_over(session, service, jobs)
    found += [f"I8 process {pid} is still there" for pid in sorted(orphans or ()) if alive(pid)]
    found += [f"I8 {path} was left behind" for folder in folders if folder.exists() for path in folder.iterdir()]
    return found


def _promised(session: Session, service: Service, jobs: list[Job], seen: Seen, settled: bool) -> Iterator[str]:
    """I1: what was answered 202 has ended or can be claimed."""
    known = {job.id: job for job in jobs}
    for job_id in sorted(seen.accepted - seen.deleted):
        if job_id not in known:
            yield f"I1 {job_id} was accepted and is gone"
    here = now(session)
    for job in jobs:
        if job.status != Status.RUNNING:
            continue
        if settled:
            yield f"I1 {job.id} is running though nobody works"
        elif job.lease_expires_at is None:
            yield f"I1 {job.id} is running without a lease"
        elif (here - job.lease_expires_at).total_seconds() > service.settings.lease_seconds + 10 * service.settings.reconcile_seconds:
            yield f"I1 {job.id} is running under a lease that ended at {job.lease_expires_at}"
    for job_id, end in seen.ends.items():
        if job_id in known and known[job_id].status != end:
            yield f"I10 a client saw {job_id} {end}, the database says {known[job_id].status}"


def _artifacts(session: Session, service: Service, load: bool) -> Iterator[str]:
    """I2, I3: a job that succeeded has its artifacts, as they were recorded, from the winning attempt; stored names are hashes."""
    rows = list(session.execute(select(Job, Artifact).join(Artifact, Artifact.job_id == Job.id, isouter=True)))
    with tempfile.TemporaryDirectory() as folder:
        to_load: list[tuple[str, str]] = []
        for job, artifact in rows:
            if artifact is None:
                if job.status == Status.SUCCEEDED and job.shown:
                    yield f"I2 {job.id} succeeded without an artifact"
                continue
            if job.status not in (Status.SUCCEEDED, Status.FAILED):
                yield f"I2 {artifact.id} was published by {job.id}, which is {job.status}"
            if artifact.fence != job.fence:
                yield f"I2 {artifact.id} was written under fence {artifact.fence}, {job.id} ended under {job.fence}"
            blob = Blob.load(session, artifact.blob_sha256)
            path = Path(folder) / artifact.id
            try:
                service.blobs.fetch(blob, path)
            except ServiceError as error:
                yield f"I2 {artifact.id} cannot be read: {error.message}"
                continue
            if path.stat().st_size != artifact.size_bytes:
                yield f"I2 {artifact.id} has {path.stat().st_size} bytes, recorded are {artifact.size_bytes}"
            if artifact.format in _LOADERS:
                to_load.append((artifact.format, str(path)))
        if load and to_load:
            yield from _load(to_load)
    for name in service.blobs.store.names("sha256"):
        size = service.blobs.store.size(name)
        content = service.blobs.store.read(name, 0, size) if size else b""
        if hashlib.sha256(content).hexdigest() != name.rpartition("/")[2]:
            yield f"I3 the object {name} does not hold the bytes that it is named after"


def _load(files: list[tuple[str, str]]) -> Iterator[str]:
    """Load the files in one fresh process, which names the one that it could not."""
    lines = ["import sys"]
    for kind, path in files:
        lines += [f"path = {path!r}", "print(path, flush=True)", _LOADERS[kind]]
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    if done.returncode:
        yield f"I2 {Path(done.stdout.split()[-1]).name} does not load: {done.stderr.strip().splitlines()[-1]}"


def _history(job: Job, history: list[JobEvent]) -> Iterator[str]:
    """I4: only legal edges, one end, nothing after it; the fence grows by one with each attempt."""
    if [event.seq for event in history] != list(range(1, len(history) + 1)) or len(history) != job.event_seq:
        yield f"I4 the history of {job.id} has a gap: {[event.seq for event in history]}, counted {job.event_seq}"
    status, fence = None, 0
    for event in history:
        if status in TERMINAL:
            yield f"I4 {job.id} goes on after its end with {event.type!r}"
        if event.type not in _STATUS_AFTER:
            continue
        after = _STATUS_AFTER[event.type]
        if status is not None and (status, after) not in EDGES:
            yield f"I4 {job.id} went from {status} to {after}"
        if event.type == "started":
            fence += 1
            if event.fence != fence:
                yield f"I4 attempt {fence} of {job.id} has the fence {event.fence}"
        status = after
    if status != job.status:
        yield f"I4 {job.id} is {job.status}, its history ends with {status}"
    if fence != job.fence:
        yield f"I4 {job.id} has the fence {job.fence} after {fence} attempts"


def _says_why(job: Job) -> Iterator[str]:
    """I10: a failure has a stable code and a sentence."""
    if job.status == Status.FAILED:
        error = job.error or {}
        if not error.get("code") or not error.get("message") or error.get("category") not in ("user", "resource", "transient", "internal"):
            yield f"I10 {job.id} failed and says {error!r}"
    elif job.error is not None:
        yield f"I10 {job.id} is {job.status} and has the error {job.error!r}"


def _charges(session: Session, jobs: list[Job]) -> Iterator[str]:
    """I5: every attempt that ended was charged once (the key forbids twice), and none that did not."""
    charged = defaultdict(set)
    for row in session.execute(select(LedgerEntry.job_id, LedgerEntry.fence, LedgerEntry.seconds)):
        charged[row.job_id].add(row.fence)
        if row.seconds < 0:
            yield f"I5 {row.job_id} was charged {row.seconds} s"
    for job in jobs:
        ended = set(range(1, job.fence + (job.status != Status.RUNNING)))
        if charged[job.id] != ended:
            yield f"I5 {job.id} was charged for the fences {sorted(charged[job.id])}, ended are {sorted(ended)}"


def _keys(session: Session, seen: Seen) -> Iterator[str]:
    """I6: one thing for each idempotency key."""
    stored: dict[str, set[str]] = defaultdict(set)
    for row in session.execute(select(IdempotencyKey.key, IdempotencyKey.resource_id)):
        stored[row.key].add(row.resource_id)
    for key, ids in seen.by_key.items():
        if len(ids | stored[key]) > 1:
            yield f"I6 the key {key!r} made {sorted(ids | stored[key])}"
    known = {row for table in (Job, Model, Dataset) for row in session.scalars(select(table.id))} | seen.deleted
    for key, ids in stored.items():
        if not ids <= known:
            yield f"I6 the key {key!r} is bound to {sorted(ids - known)}, which is nothing"


def _messages(session: Session, jobs: list[Job], histories: Mapping[str, list[JobEvent]]) -> Iterator[str]:
    """I7: one message for each address and each event that it wants, and none of what never happened."""
    told = defaultdict(list)
    for row in session.execute(select(WebhookDelivery.webhook_id, WebhookDelivery.message_id, WebhookDelivery.job_id)):
        if row.job_id is not None:
            told[row.webhook_id].append(row.message_id)
    for webhook in session.scalars(select(Webhook).where(Webhook.disabled_at.is_(None))):
        wanted = {
            f"msg_{job.id.removeprefix('job_')}{event.seq:08d}"
            for job in jobs
            if job.shown and job.project_id == webhook.project_id
            for event in histories[job.id]
            if event.created_at > webhook.created_at and f"job.{event.type}" in webhook.events
        }
        if missing := wanted - set(told[webhook.id]):
            yield f"I7 {webhook.id} was never told {sorted(missing)[:3]}"
        known = {f"msg_{job.id.removeprefix('job_')}{event.seq:08d}" for job in jobs for event in histories[job.id]}
        if invented := set(told[webhook.id]) - known:
            yield f"I7 {webhook.id} was told {sorted(invented)[:3]}, which never happened"
        if len(told[webhook.id]) != len(set(told[webhook.id])):
            yield f"I7 {webhook.id} has a message twice"


def _projects(session: Session, jobs: list[Job]) -> Iterator[str]:
    """I9: nothing refers to another project's things."""
    owners = {row.id: row.project_id for table in (Model, Dataset) for row in session.execute(select(table.id, table.project_id))}
    for job in jobs:
        for input_id in filter(None, (job.model_id, job.dataset_id)):
            if owners[input_id] != job.project_id:
                yield f"I9 {job.id} reads {input_id} of another project"
    for row in session.execute(
        select(Artifact.id, Artifact.project_id, Job.project_id.label("owner")).join(Job, Job.id == Artifact.job_id)
    ):
        if row.project_id != row.owner:
            yield f"I9 {row.id} belongs to another project than its job"


def _left_over(session: Session, service: Service, jobs: list[Job]) -> Iterator[str]:
    """I8: no lease of an ended job, no staged file, no part of an upload that is gone, no row without its bytes."""
    for job in jobs:
        if job.status != Status.RUNNING and job.lease_expires_at is not None:
            yield f"I8 {job.id} is {job.status} and has a lease"
        if job.status in TERMINAL and job.checkpoint_sha256 is not None:
            yield f"I8 {job.id} has ended and keeps a checkpoint"
    for path in service.blobs.store.staging.iterdir():
        yield f"I8 the staged file {path.name} was left behind"
    uploads = set(session.scalars(select(Upload.id).where(Upload.status == "open")))
    for name in service.blobs.store.names("uploads"):
        if name.split("/")[1] not in uploads:
            yield f"I8 {name} belongs to no upload"
    for table in (Model, Dataset):
        for row in session.scalars(select(table).where(table.deleted_at.is_(None)).options(undefer(table.inspection))):
            stored = session.get(StoredBlob, row.blob_sha256)
            if stored is None or service.blobs.store.size(f"sha256/{row.sha256[:2]}/{row.sha256}") != row.size_bytes:
                yield f"I8 the bytes of {row.id} are gone"
            if row.status == "ready" and row.inspection is None:
                yield f"I10 {row.id} is ready and says nothing"
