"""The tables, by room. A row is data: what may happen to it stands in `core.jobs`, `core.library.models` and so on.

Ids are text that sorts by time. Times are aware and in UTC. JSON columns hold what is shown, never what is searched for.
"""

from core.database.tables.access import ApiKey, IdempotencyKey, LedgerEntry, Project, Turn, WebSession
from core.database.tables.base import QUEUED, RUNNING, Base, Id, JsonList, JsonObject, Lease, StoredBlob
from core.database.tables.jobs import Job, JobEvent, JobLabel, JobLog, JobMetric, JobTeacher
from core.database.tables.library import Artifact, Dataset, Model, Upload, UploadPart

__all__ = [
    "QUEUED",
    "RUNNING",
    "ApiKey",
    "Artifact",
    "Base",
    "Dataset",
    "Id",
    "IdempotencyKey",
    "Job",
    "JobEvent",
    "JobLabel",
    "JobLog",
    "JobMetric",
    "JobTeacher",
    "JsonList",
    "JsonObject",
    "Lease",
    "LedgerEntry",
    "Model",
    "Project",
    "StoredBlob",
    "Turn",
    "Upload",
    "UploadPart",
    "WebSession",
]
