"""Errors that a client reads: a stable code, an HTTP status, what was wrong, where, and what to do about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class FieldError:
    """One thing wrong with the request: a JSON pointer into it, a code, a sentence, and what to do."""

    pointer: str
    code: str
    detail: str
    hint: str | None = None


MOST_ERRORS = 100
"""Field errors of one answer; the last one counts those that are left out."""


class ServiceError(Exception):
    """Base of all errors that are answers; `code` and `status` are part of the public contract."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        errors: Sequence[FieldError] = (),
        retry_after_seconds: float | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.errors = bounded(errors)
        self.retry_after_seconds = retry_after_seconds
        self.details = details or {}


def bounded(errors: Sequence[FieldError], *, total: int = 0) -> tuple[FieldError, ...]:
    """At most `MOST_ERRORS` errors. `total` is their number where the first ones of many are given."""
    total = max(total, len(errors))
    if total <= MOST_ERRORS:
        return tuple(errors)
    listed = tuple(errors[: MOST_ERRORS - 1])
    return (*listed, FieldError("", "more_problems", f"{total - len(listed)} further problems are not listed"))


class MalformedRequest(ServiceError):
    """The request cannot be read: bad JSON, a bad cursor, a bad filter."""

    code = "malformed_request"
    status = 400
    title = "Malformed request"


class Unauthenticated(ServiceError):
    """No key, an unknown key, an expired or a revoked one."""

    code = "unauthenticated"
    status = 401
    title = "Authentication required"


class ScopeMissing(ServiceError):
    """The key is valid but may not do this."""

    code = "scope_missing"
    status = 403
    title = "Scope missing"


class NotFound(ServiceError):
    """No such thing in the caller's project."""

    code = "not_found"
    status = 404
    title = "Not found"


class ResourceInUse(ServiceError):
    """Deleting would pull the ground from under a job that has not ended."""

    code = "resource_in_use"
    status = 409
    title = "Resource in use"


class JobAlreadyTerminal(ServiceError):
    """The job has ended, so that it cannot be cancelled."""

    code = "job_already_terminal"
    status = 409
    title = "Job has ended"


class JobNotTerminal(ServiceError):
    """The job has not ended, so that it can be neither deleted nor retried."""

    code = "job_not_terminal"
    status = 409
    title = "Job has not ended"


class IdempotencyInProgress(ServiceError):
    """Another request with the same `Idempotency-Key` is being answered."""

    code = "idempotency_in_progress"
    status = 409
    title = "Request in progress"


class UploadIncomplete(ServiceError):
    """Parts are missing."""

    code = "upload_incomplete"
    status = 409
    title = "Upload incomplete"


class UploadClosed(ServiceError):
    """The upload takes no more parts."""

    code = "upload_closed"
    status = 409
    title = "Upload closed"


class LeaseLost(ServiceError):
    """The job belongs to another attempt, or has ended: a worker that reads this stops its child and forgets the job."""

    code = "lease_lost"
    status = 409
    title = "Lease lost"


class UploadTooLarge(ServiceError):
    """More bytes than the service accepts."""

    code = "upload_too_large"
    status = 413
    title = "Upload too large"


class SpecInvalid(ServiceError):
    """The spec does not validate; `errors` lists every problem."""

    code = "spec_invalid"
    status = 422
    title = "Spec invalid"


class DatasetRequired(SpecInvalid):
    """The only problem of the spec is that it names no dataset."""

    code = "dataset_required"
    title = "Dataset required"


class MethodUnavailable(SpecInvalid):
    """The catalogue knows the method, and this installation cannot run it."""

    code = "method_unavailable"
    title = "Method unavailable"


class WebhookDisabled(ServiceError):
    """Nothing is sent to an address that was disabled."""

    code = "webhook_disabled"
    status = 409
    title = "Webhook disabled"


class LabelsInvalid(ServiceError):
    """A thing would have more labels than it may."""

    code = "labels_invalid"
    status = 422
    title = "Labels invalid"


class ShapeMismatch(ServiceError):
    """The dataset's arrays do not fit the model's inputs."""

    code = "shape_mismatch"
    status = 422
    title = "Shape mismatch"


class SettingNotFound(ServiceError):
    """The artifact has no such setting."""

    code = "setting_not_found"
    status = 422
    title = "Setting not found"


class NoSettingFits(ServiceError):
    """No setting of the artifact is within the limit."""

    code = "no_setting_fits"
    status = 422
    title = "No setting fits"


class SettingsNotSeparable(ServiceError):
    """The artifact's settings are no files that could be cut out of it."""

    code = "settings_not_separable"
    status = 422
    title = "Settings not separable"


class ModelInvalid(ServiceError):
    """The model was inspected and cannot be used."""

    code = "model_invalid"
    status = 422
    title = "Model invalid"


class DatasetInvalid(ServiceError):
    """The dataset was inspected and cannot be used."""

    code = "dataset_invalid"
    status = 422
    title = "Dataset invalid"


class IdempotencyKeyReused(ServiceError):
    """The same `Idempotency-Key` came with another request."""

    code = "idempotency_key_reused"
    status = 422
    title = "Idempotency key reused"


class DigestMismatch(ServiceError):
    """The bytes that arrived are not those that the client meant."""

    code = "digest_mismatch"
    status = 422
    title = "Digest mismatch"


class QuotaExceeded(ServiceError):
    """The project's share is used up."""

    code = "quota_exceeded"
    status = 429
    title = "Quota exceeded"


class RateLimited(ServiceError):
    """More requests, or more at once, than one client may make."""

    code = "rate_limited"
    status = 429
    title = "Too many requests"


class ChecksumMismatch(ServiceError):
    """Stored bytes are not those that were stored; they are not served."""

    code = "checksum_mismatch"
    status = 500
    title = "Checksum mismatch"


class Unavailable(ServiceError):
    """The database or the blob store does not answer."""

    code = "service_unavailable"
    status = 503
    title = "Service unavailable"


class StorageFull(ServiceError):
    """The disk is below its low watermark."""

    code = "storage_full"
    status = 507
    title = "Storage full"
