"""Stored reports as documents: read once, and kept for those who look at the same one next."""

import threading
from collections import OrderedDict

from api.http.errors import ReportTooLarge, ReportUnreadable
from core.blobs import Blob
from core.service import Service
from engine.contract.report import Report, UnreadableReport
from engine.reporting.document import read

MOST_DRAWN_BYTES = 8 * 2**20
"""A longer report is served as JSON only."""
_KEPT, _KEPT_BYTES = 16, 2**20
"""Reports in memory, and the longest of them."""
_documents: OrderedDict[str, Report] = OrderedDict()
_lock = threading.Lock()


def document(service: Service, blob: Blob) -> Report:
    """A stored report. Raises `report_too_large` and `report_unreadable`."""
    if blob.size_bytes > MOST_DRAWN_BYTES:
        raise ReportTooLarge(f"the report has {blob.size_bytes} bytes, which is more than is drawn as a page", hint="GET report.json")
    with _lock:
        if (known := _documents.get(blob.sha256)) is not None:
            _documents.move_to_end(blob.sha256)
            return known
    try:
        found = read(service.blobs.read_all(blob))
    except UnreadableReport as error:
        raise ReportUnreadable(error.message, hint=error.hint) from None
    if blob.size_bytes <= _KEPT_BYTES:
        with _lock:
            _documents[blob.sha256] = found
            while len(_documents) > _KEPT:
                _documents.popitem(last=False)
    return found
