"""The tables, by room. A row is data: what may happen to it stands in `core.jobs`, `core.library.models` and so on.

Ids are text that sorts by time. Times are aware and in UTC. JSON columns hold what is shown, never what is searched for.
"""

from core.database.tables.access import ApiKey, IdempotencyKey, LedgerEntry, Project, Turn, WebSession
from core.database.tables.base import QUEUED, RUNNING, Base, Id, JsonList, JsonObject, Lease, StoredBlob
from core.database.tables.jobs import Job, JobEvent, JobLabel, JobLog, JobMetric, JobTeacher
from core.database.tables.library import Artifact, ArtifactLabel, Dataset, DatasetLabel, Model, ModelLabel, Template, Upload, UploadPart
from core.database.tables.webhooks import Webhook, WebhookAttempt, WebhookDelivery

__all__ = [
    "QUEUED",
    "RUNNING",
    "ApiKey",
    "Artifact",
    "ArtifactLabel",
    "Base",
    "Dataset",
    "DatasetLabel",
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
    "ModelLabel",
    "Project",
    "StoredBlob",
    "Template",
    "Turn",
    "Upload",
    "UploadPart",
    "WebSession",
    "Webhook",
    "WebhookAttempt",
    "WebhookDelivery",
]
