"""Uploads in parts, as `core.library.uploads.body` renders them."""

from datetime import datetime
from typing import Literal

from modelpress.resources.common import Resource


class Part(Resource):
    """One part that has arrived."""

    number: int
    size_bytes: int
    sha256: str


class Upload(Resource):
    """A file that arrives in parts."""

    object: Literal["upload"]
    id: str
    filename: str | None
    status: Literal["open", "completed"]
    size_bytes: int | None
    received_bytes: int | None
    sha256: str | None
    parts: list[Part]
    created_at: datetime
    expires_at: datetime
    """Without a further part until then the upload is dropped."""
    urls: dict[str, str]
