"""Stored bytes: content-addressed, verified on the way in and on the way out, in a local folder or in S3."""

from core.blobs.digest import CHUNK_BYTES, Blob
from core.blobs.ingest import Blobs
from core.blobs.staged import Staged
from core.blobs.store import BlobStore, open_store

__all__ = ["CHUNK_BYTES", "Blob", "BlobStore", "Blobs", "Staged", "open_store"]
