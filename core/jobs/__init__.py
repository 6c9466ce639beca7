"""The life of a job. Status changes here and nowhere else."""

from core.database.clock import timestamp
from core.jobs.body import EXPANDABLE, artifact_body, body, event_body, listed, metric_body
from core.jobs.check import Checked, Submission, check
from core.jobs.claim import SPEC_VERSION, UNBOUNDED, UNBOUNDED_MEMORY, Claim, Input, claim, confined
from core.jobs.control import cancel, cancel_queued, delete
from core.jobs.create import Created, create, create_inspection, rerun, retry
from core.jobs.history import Mark, events, log, log_line, marks, metrics, series
from core.jobs.partial import partial_report
from core.jobs.queries import artifacts, get, search, version
from core.jobs.records import Heartbeat, NewArtifact, NewEvent, Point, Report
from core.jobs.states import EDGES, TERMINAL, Status
from core.jobs.work import cancelled, checkpoint, fail, finish, heartbeat, lose, release, should_stop
from engine.contract.errors import JobError
from engine.contract.figures import Outcome

__all__ = [
    "EDGES",
    "EXPANDABLE",
    "SPEC_VERSION",
    "TERMINAL",
    "UNBOUNDED",
    "UNBOUNDED_MEMORY",
    "Checked",
    "Claim",
    "Created",
    "Heartbeat",
    "Input",
    "JobError",
    "Mark",
    "NewArtifact",
    "NewEvent",
    "Outcome",
    "Point",
    "Report",
    "Status",
    "Submission",
    "artifact_body",
    "artifacts",
    "body",
    "cancel",
    "cancel_queued",
    "cancelled",
    "check",
    "checkpoint",
    "claim",
    "confined",
    "create",
    "create_inspection",
    "delete",
    "event_body",
    "events",
    "fail",
    "finish",
    "get",
    "heartbeat",
    "listed",
    "log",
    "log_line",
    "lose",
    "marks",
    "metric_body",
    "metrics",
    "partial_report",
    "release",
    "rerun",
    "retry",
    "search",
    "series",
    "should_stop",
    "timestamp",
    "version",
]
