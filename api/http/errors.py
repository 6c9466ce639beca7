"""Errors that only the HTTP edge knows; the domain's own stand in `core.errors`."""

from core.errors import ServiceError


class UnsupportedMediaType(ServiceError):
    """The body is in a format that this route does not read."""

    code = "unsupported_media_type"
    status = 415
    title = "Unsupported media type"


class RequestTooLarge(ServiceError):
    """A document has more bytes than any spec needs."""

    code = "request_too_large"
    status = 413
    title = "Request too large"


class EtagMismatch(ServiceError):
    """The resource is not in the state that `If-Match` names."""

    code = "etag_mismatch"
    status = 412
    title = "ETag mismatch"


class RangeNotSatisfiable(ServiceError):
    """No requested byte lies inside the file."""

    code = "range_not_satisfiable"
    status = 416
    title = "Range not satisfiable"

    def __init__(self, message: str, *, size_bytes: int) -> None:
        super().__init__(message)
        self.headers = {"Content-Range": f"bytes */{size_bytes}"}


class ReportTooLarge(ServiceError):
    """A report that would make a page of many megabytes."""

    code = "report_too_large"
    status = 422
    title = "Report too large"


class ReportUnreadable(ServiceError):
    """A stored report of another version than this service draws."""

    code = "report_unreadable"
    status = 422
    title = "Report unreadable"


class InvalidParameter(ServiceError):
    """A parameter that this route does not know, or a value that it cannot use."""

    code = "invalid_parameter"
    status = 422
    title = "Invalid parameter"


class InvalidBody(ServiceError):
    """A JSON body that does not have the documented shape."""

    code = "invalid_body"
    status = 422
    title = "Invalid body"


class InvalidMetadata(ServiceError):
    """The `metadata` of an upload does not validate."""

    code = "invalid_metadata"
    status = 422
    title = "Invalid metadata"


class NotInspected(ServiceError):
    """What the request asks for is known when the inspection has ended."""

    code = "not_inspected"
    status = 409
    title = "Not inspected yet"


class Refused(ServiceError):
    """A file that the engine does not take, under the engine's own code."""

    status = 422
    title = "File refused"

    def __init__(self, code: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code  # type: ignore[misc]  # the engine's codes are an open list
        if code == "unsupported_format":
            self.status = 415  # type: ignore[misc]  # as above
