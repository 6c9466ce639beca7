"""Files that clients name by a URI instead of sending them."""

import re
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from starlette.concurrency import run_in_threadpool

from core import egress
from core.mlflow import source
from core.service import Service
from core.settings import Settings

PATTERN = r"^((https|s3)://|mlflow:(models|runs):/)[!-~]{1,2000}$"
_S3 = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(.+)")
_REDIRECTS = 3
_NAME = re.compile(r"[^\w.\- ]")


@dataclass(frozen=True)
class Fetched:
    """A body that is on its way."""

    chunks: AsyncIterator[bytes]
    size_bytes: int | None


def url_of(uri: str, settings: Settings) -> str:
    """The URL behind a URI: `s3://bucket/key` is an object that may be read without credentials. Raises `egress_refused`."""
    if not uri.startswith("s3:"):
        return uri
    found = _S3.fullmatch(uri)
    if found is None:
        raise egress.EgressRefused("an s3 URI has the form s3://bucket/key", hint="or use a presigned https: URL")
    return f"{settings.egress_s3_endpoint.rstrip('/')}/{found[1]}/{quote(unquote(found[2]))}"


def name_of(uri: str) -> str | None:
    """How lists show such a file: the last part of its path."""
    return _NAME.sub("_", unquote(urlsplit(uri).path.rpartition("/")[2]))[:200].strip() or None


def _located(uri: str, service: Service, project_id: str) -> source.Located:
    if not uri.startswith(source.SCHEME):
        return source.Located(url_of(uri, service.settings), {})
    with service.database.reader() as session:
        server = source.server_of(session, project_id)
    return source.located(server, service.settings.egress, uri)


@asynccontextmanager
async def fetched(uri: str, service: Service, project_id: str) -> AsyncIterator[Fetched]:
    """The file behind a URI, through the egress client. Raises `egress_refused`, `egress_failed`, also while it is read.

    An `mlflow:` URI is looked up at the project's MLflow server; raises `not_found` where it has none.
    """
    settings = service.settings
    where = await run_in_threadpool(_located, uri, service, project_id)
    with ExitStack() as stack:
        answer = await run_in_threadpool(
            stack.enter_context,
            egress.request(
                "GET",
                where.url,
                headers=where.headers,
                policy=settings.egress,
                limit_bytes=settings.max_upload_bytes,
                seconds=settings.egress_seconds,
                redirects=_REDIRECTS,
            ),
        )
        if answer.status != 200:
            raise egress.EgressFailed(
                f"the other server answered {answer.status}", hint="check the URI, and whether it may be read without a key"
            )
        chunks = answer.chunks()

        async def body() -> AsyncIterator[bytes]:
            while (part := await run_in_threadpool(next, chunks, None)) is not None:
                yield part

        yield Fetched(body(), answer.size_bytes)
