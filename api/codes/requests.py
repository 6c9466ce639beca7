"""What the codes of refused requests mean and what to do about them: `GET /problems/{code}` and `docs/errors.md` are made of this.

Codes of jobs that failed stand in `api.codes.jobs`. A test holds both against what the source raises.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Meaning:
    """One code: what has happened, and what to do."""

    meaning: str
    remedy: str


REQUESTS: dict[str, Meaning] = {
    code: Meaning(*texts)
    for code, texts in {
        "checksum_mismatch": (
            "Stored bytes are not the bytes that were stored: the disk or the object store has damaged them. They are not served.",
            "Restore the file from a backup, or upload or compute it again; the service's log names its hash.",
        ),
        "cross_origin_refused": (
            "A form or a call that changes something came from a page of another origin.",
            "Use the service's own pages, or let the operator name the origin in MODELPRESS_CORS_ORIGINS.",
        ),
        "dataset_invalid": (
            "The dataset cannot be used: its file is damaged, its metadata contradict it, or its labels do not fit the model.",
            "`detail` and `hint` say what is wrong and where. Correct the file or the metadata, and upload it again.",
        ),
        "dataset_required": (
            "A step, an export format or a constraint of the spec needs examples, and the spec names no dataset.",
            "Upload one with POST /v1/datasets and name its id as `dataset`.",
        ),
        "digest_mismatch": (
            "The bytes that arrived, or that a URI gave, have another hash than the request promised.",
            "Send them again; where it happens twice, compute the digest anew.",
        ),
        "egress_failed": (
            "The server that a URI names did not answer, or not with the file.",
            "See that the address answers by itself, then send the request again.",
        ),
        "egress_refused": (
            "The service does not connect to that address: it is private, not https, or redirects.",
            "Name the file's own public https address; the operator opens private networks with MODELPRESS_EGRESS_NETWORKS.",
        ),
        "etag_mismatch": (
            "The resource has changed since the state that `If-Match` names.",
            "Fetch it again, and decide anew with its new ETag.",
        ),
        "host_not_allowed": (
            "The service runs without keys and answers for this machine only; the request names another host.",
            "Open it as localhost, or set MODELPRESS_AUTH=required and make a key.",
        ),
        "idempotency_in_progress": (
            "Another request with the same Idempotency-Key is being answered at this moment.",
            "Wait as long as Retry-After says, then send the same request again: it gives the same resource.",
        ),
        "idempotency_key_reused": (
            "The Idempotency-Key was used for another request within the last day.",
            "Use a fresh key, such as a UUID, for each different request.",
        ),
        "internal_error": (
            "The service, or a job, failed in a way that nobody foresaw.",
            "Try again once. Report it with the `request_id`, or the job's id: the log has the details under it.",
        ),
        "invalid_body": (
            "The document of the request does not have the documented shape.",
            "`errors` lists every place as a JSON pointer, with what is expected there; /docs shows the schema.",
        ),
        "invalid_metadata": (
            "The `metadata` of an upload have a field that is unknown or a value that cannot be used.",
            "`errors` lists every place; `docs/datasets.md` and the schema in /docs say what may stand there.",
        ),
        "invalid_parameter": (
            "A parameter of the address or of a header is unknown, or has a value that cannot be used.",
            "`errors` names it as /query/<name> or /header/<name>, with what is allowed.",
        ),
        "job_already_terminal": (
            "The job has ended, so that it cannot be cancelled.",
            "Nothing is to be done; `POST /v1/jobs/{id}/retry` runs it again.",
        ),
        "job_not_terminal": (
            "The job has not ended, so that it can be neither deleted nor run again.",
            "Wait until it has, or cancel it first.",
        ),
        "labels_invalid": (
            "A thing would have more labels than it may.",
            "Take others away by setting them to null in the same request.",
        ),
        "lease_lost": (
            "A worker reported on a job that another attempt has taken over.",
            "Nothing is to be done: the other attempt goes on.",
        ),
        "malformed_request": (
            "The request cannot be read: broken JSON or YAML, a cursor or a header that has no such form.",
            "`detail` says where it breaks off, `hint` what is usual there.",
        ),
        "method_not_allowed": (
            "The path exists and does not answer this verb.",
            "The header `Allow` lists the verbs that it answers.",
        ),
        "method_unavailable": (
            "The spec names a method that this installation knows and cannot run, for want of a library.",
            "GET /v1/methods says which are available and what the others lack.",
        ),
        "model_invalid": (
            "The model cannot be used: its file is damaged, or its graph contradicts itself.",
            "`detail` names the place. Export the model again; `modelpress inspect` checks it before an upload.",
        ),
        "no_setting_fits": (
            "No setting of the artifact is within the limit that was asked for.",
            "Ask for a higher limit; GET /v1/jobs/{id} lists the settings with their figures.",
        ),
        "not_found": (
            "There is no such thing in the key's project, or nothing is at that address.",
            "Check the id, and that the key belongs to the project; GET /openapi.json lists every address.",
        ),
        "not_inspected": (
            "What the request asks for is known once the upload has been inspected, which takes a moment.",
            "Ask again when `status` is `ready`.",
        ),
        "not_local": (
            "The service runs without API keys, so it answers this machine only.",
            "Set MODELPRESS_AUTH=required and make a key with `modelpress keys create`.",
        ),
        "quota_exceeded": (
            "The project has used up its share of storage, or of jobs that run or wait at once.",
            "Delete what is not needed, wait for jobs to end, or ask the operator for more: `modelpress projects quota`.",
        ),
        "range_not_satisfiable": (
            "No byte that `Range` asks for lies inside the file.",
            "`Content-Range` says how many bytes the file has.",
        ),
        "rate_limited": (
            "One client sends more requests, or more at once, than it may.",
            "Wait as long as Retry-After says; polling a job with `Prefer: wait=30` needs fewer requests.",
        ),
        "report_too_large": (
            "The report is too long to be drawn as a page.",
            "GET report.json, which has all of it.",
        ),
        "report_unreadable": (
            "The stored report was written by another version of the service.",
            "GET report.json holds it as it was written; a service of that version shows it.",
        ),
        "request_header_fields_too_large": (
            "The head of the request has more bytes than any needs.",
            "Send fewer or shorter headers and parameters; long metadata belong into the body of a finished upload.",
        ),
        "request_timeout": (
            "The head or the body of the request came too slowly.",
            "Send it again over a better connection; large files in parts, with POST /v1/uploads.",
        ),
        "request_too_large": (
            "The document, or the head of the request, has more bytes than any needs.",
            "`detail` names the limit. Files belong into POST /v1/models and /v1/datasets; YAML may be sent as JSON.",
        ),
        "resource_in_use": (
            "An unfinished job reads the model or the dataset.",
            "Wait until the job has ended, or cancel it.",
        ),
        "scope_missing": (
            "The key is valid and lacks a right that this request needs.",
            "Use a key with the scope that `detail` names: `modelpress keys create --scope …`.",
        ),
        "service_unavailable": (
            "The database, the object store or a free place does not answer at this moment.",
            "Wait as long as Retry-After says, then send the request again, with the same Idempotency-Key.",
        ),
        "setting_not_found": (
            "The artifact has no setting of that name or width.",
            "`hint` lists those that it has.",
        ),
        "settings_not_separable": (
            "The settings of the artifact share one file and cannot be cut out of it.",
            "Download the artifact and choose the setting when it runs: `docs/runtime.md`.",
        ),
        "shape_mismatch": (
            "The dataset's arrays, or a file's tensors, do not fit the model's inputs.",
            "Compare the shapes that `detail` names; the declared `layout` and `x_<split>.<input>` decide what goes where.",
        ),
        "spec_invalid": (
            "The spec does not validate.",
            "`errors` lists every place as a JSON pointer, with what to do; POST /v1/jobs/validate checks without submitting.",
        ),
        "storage_full": (
            "The disk of the service is below its low watermark.",
            "The operator frees space, or lowers MODELPRESS_MIN_FREE_BYTES.",
        ),
        "unauthenticated": (
            "The request has no API key, or one that is unknown, expired or revoked.",
            "Send `Authorization: Bearer mp_…`; `modelpress keys create` makes a key. In a browser, log in at /login.",
        ),
        "unsupported_media_type": (
            "The body is in a format, or in a content coding, that this address does not read.",
            "Send JSON or YAML with its Content-Type, or the file itself, and not packed with gzip.",
        ),
        "upload_closed": (
            "The upload has been completed or used, and takes no more parts.",
            "Begin another one with POST /v1/uploads.",
        ),
        "upload_incomplete": (
            "Parts of the upload are missing.",
            "Send those that `detail` names, then complete it again.",
        ),
        "upload_too_large": (
            "The file has more bytes than the service accepts.",
            "The operator sets MODELPRESS_MAX_UPLOAD_BYTES.",
        ),
        "webhook_disabled": (
            "The webhook was disabled: by its owner, or because its address answered 410 or failed for days.",
            "Enable it with PATCH /v1/webhooks/{id}, then send again.",
        ),
    }.items()
}
"""Codes of problem documents."""
