"""What a form changes: in one unit of work, after which nothing that was made before is shown."""

from collections.abc import Callable
from typing import TypeVar

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from api.pages.rendering import Pages
from core.database.db import Session
from core.service import Service

Done = TypeVar("Done")


async def change(request: Request, work: Callable[[Session], Done]) -> Done:
    """What `work` returns, once it is committed. Raises what it raises."""
    service: Service = request.app.state.service

    def committed() -> Done:
        with service.database.unit_of_work() as session:
            return work(session)

    done = await run_in_threadpool(committed)
    pages: Pages = request.app.state.pages
    pages.fresh.forget()
    return done
