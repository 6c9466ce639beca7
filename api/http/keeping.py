"""An upload that was taken becomes a thing of the library: once for each `Idempotency-Key`."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol, TypeVar

from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from api.http.idempotency import asked_under, replayed_headers
from api.http.intake import Taken
from core import ids
from core.blobs import Blob
from core.database.db import Session
from core.jobs import idempotency
from core.service import Service
from core.settings import Settings

Row = TypeVar("Row")


class Shelf(Protocol[Row]):
    """Where models, or datasets, are kept: `core.library.models` or `core.library.datasets`."""

    PREFIX: ids.Prefix

    def create(
        self,
        session: Session,
        settings: Settings,
        project_id: str,
        *,
        name: str,
        format: str,
        metadata: dict[str, Any],
        blob: Blob,
        labels: Mapping[str, str],
        row_id: str | None,
    ) -> Row:
        """Keep bytes that are in the blob store."""
        ...

    def get(self, session: Session, project_id: str, row_id: str, /) -> Row:
        """One of them."""
        ...

    def body(self, row: Row, /) -> dict[str, Any]:
        """It as JSON."""
        ...


async def kept(service: Service, project_id: str, shelf: Shelf[Row], taken: Taken, key: str | None) -> Response:
    """201 with what was made of the upload, or with what an earlier request under the same key made of it."""
    body, replayed = await run_in_threadpool(_kept, service, project_id, shelf, taken, key)
    return JSONResponse(body, 201, {"Location": body["urls"]["self"]} | replayed_headers(replayed))


def _kept(service: Service, project_id: str, shelf: Shelf[Row], taken: Taken, key: str | None) -> tuple[dict[str, Any], bool]:
    asked = asked_under(service, key, f"create_{shelf.PREFIX}", taken.name, taken.format, taken.metadata, taken.blob.sha256, taken.labels)
    with service.database.unit_of_work() as session:

        def make(row_id: str) -> Row:
            return shelf.create(
                session,
                service.settings,
                project_id,
                name=taken.name,
                format=taken.format,
                metadata=taken.metadata,
                blob=taken.blob,
                labels=taken.labels,
                row_id=row_id,
            )

        row, replayed = idempotency.once(
            session, project_id, asked, ids.new(shelf.PREFIX), find=partial(shelf.get, session, project_id), make=make
        )
        return shelf.body(row), replayed
