"""The append-only record of a job: events, series of metrics, log."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import case, func, insert, or_, select, update
from sqlalchemy.orm import Session

from core.database.serialization import clean, storable
from core.database.tables import Job, JobEvent, JobLog, JobMetric
from core.jobs.records import NewEvent, Point

MAX_LOG_BYTES = 4 * 2**20
"""How much is kept of one job's log, over all its attempts."""
_CUT = b"\n[the log is longer than the service keeps: the rest was dropped]\n"


def add_events(session: Session, job_id: str, fence: int, last_seq: int, events: Sequence[NewEvent]) -> None:
    """Append events; their numbers were taken from the job's counter, which stands at `last_seq` after them."""
    rows = [
        {"job_id": job_id, "seq": seq, "type": event.type, "fence": fence, "data": storable(event.data)}
        for seq, event in enumerate(events, last_seq - len(events) + 1)
    ]
    if rows:
        session.execute(insert(JobEvent), rows)


def add_metrics(session: Session, job_id: str, fence: int, last_seq: int, points: Sequence[Point]) -> None:
    """Append points of series; their numbers were taken from the job's counter, which stands at `last_seq` after them."""
    rows = [
        {
            "job_id": job_id,
            "seq": seq,
            "fence": fence,
            "step_index": point.step_index,
            "name": point.name[:200],
            "step": point.step,
            "value": storable(float(point.value)),
            "unit": point.unit,
        }
        for seq, point in enumerate(points, last_seq - len(points) + 1)
    ]
    if rows:
        session.execute(insert(JobMetric), rows)


def add_log(session: Session, job_id: str, fence: int, offset: int, text: str) -> None:
    """Append to the log at `offset`, its present length; past `MAX_LOG_BYTES` the rest is dropped, and the log says so once."""
    content = clean(text).encode()
    if not content or offset > MAX_LOG_BYTES:
        return
    if offset + len(content) > MAX_LOG_BYTES:
        content = content[: MAX_LOG_BYTES - offset] + _CUT
    session.execute(insert(JobLog), [{"job_id": job_id, "offset": offset, "fence": fence, "content": content}])
    session.execute(
        update(Job).where(Job.id == job_id).values(log_bytes=offset + len(content)), execution_options={"synchronize_session": False}
    )


def events(session: Session, job_id: str, *, after: int = 0, limit: int = 100, types: Sequence[str] = ()) -> list[JobEvent]:
    """Events with a number above `after`, oldest first; of the given types only, where there are any."""
    statement = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.seq > after).order_by(JobEvent.seq).limit(limit)
    return list(session.scalars(statement.where(JobEvent.type.in_(types)) if types else statement))


def metrics(session: Session, job_id: str, *, after: int = 0, limit: int = 1000, name: str | None = None) -> list[JobMetric]:
    """Points with a number above `after`, oldest first; of one series where `name` is given."""
    statement = select(JobMetric).where(JobMetric.job_id == job_id, JobMetric.seq > after).order_by(JobMetric.seq).limit(limit)
    return list(session.scalars(statement if name is None else statement.where(JobMetric.name == name)))


def series(session: Session, job_id: str, *, names: Sequence[str] = (), max_points: int = 500) -> list[dict[str, Any]]:
    """Every series of a job as `{name, unit, step_index, attempt_fence, points: [[step, value], …]}`, in the order of their beginnings.

    Longer series are thinned out evenly to `max_points`, the last point kept.
    """
    same = (JobMetric.name, JobMetric.step_index, JobMetric.fence)
    numbered = select(
        JobMetric.seq,
        func.row_number().over(partition_by=same, order_by=JobMetric.seq).label("number"),
        func.count().over(partition_by=same).label("total"),
    ).where(JobMetric.job_id == job_id)
    if names:
        numbered = numbered.where(JobMetric.name.in_(names))
    chosen = numbered.subquery()
    stride = case((chosen.c.total <= max_points, 1), else_=(chosen.c.total + max_points - 3) // (max_points - 1))
    kept = select(chosen.c.seq).where(or_((chosen.c.number - 1) % stride == 0, chosen.c.number == chosen.c.total))
    statement = select(JobMetric).where(JobMetric.job_id == job_id, JobMetric.seq.in_(kept)).order_by(JobMetric.seq)
    found: dict[tuple[str, int | None, int], dict[str, Any]] = {}
    for point in session.scalars(statement):
        key = (point.name, point.step_index, point.fence)
        empty: dict[str, Any] = {
            "name": point.name,
            "unit": point.unit,
            "step_index": point.step_index,
            "attempt_fence": point.fence,
            "points": [],
        }
        found.setdefault(key, empty)["points"].append([point.step, point.value])
    return list(found.values())


def log(session: Session, job_id: str, *, offset: int = 0) -> Iterable[bytes]:
    """The log's bytes from `offset` on, in the pieces in which they were written."""
    statement = select(JobLog).where(JobLog.job_id == job_id).order_by(JobLog.offset)
    for piece in session.scalars(statement):
        if piece.offset + len(piece.content) > offset:
            yield piece.content[max(0, offset - piece.offset) :]


_DATED = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) (info|warning|error) (.*)", re.DOTALL)


def log_line(line: str) -> dict[str, str | None]:
    """A line of the log as an object; what a library printed has neither a time nor a level."""
    match = _DATED.fullmatch(line)
    at, level, message = match.groups() if match else (None, None, line)
    return {"at": at, "level": level, "message": message}


@dataclass(frozen=True)
class Mark:
    """How far a job's record has come; comparing two of them is the cheap poll."""

    version: int
    event_seq: int
    status: str


def marks(session: Session, job_ids: Sequence[str]) -> dict[str, Mark]:
    """The marks of many jobs in one statement; for the process's one poller, whatever the number of its clients."""
    statement = select(Job.id, Job.version, Job.event_seq, Job.status).where(Job.id.in_(job_ids))
    return {row.id: Mark(row.version, row.event_seq, row.status) for row in session.execute(statement)}
