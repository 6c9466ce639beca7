"""What goes wrong on a page is said on a page; programs get the problem document, as everywhere."""

import json
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request
from fastapi.responses import Response

from api.front import browser
from api.pages.rendering import Content, framed, render

Handler = Callable[[Request, Exception], Awaitable[Response]]


def install(app: FastAPI) -> None:
    """Put a page around the problems of pages; `api.http.problems.install` must have been called."""
    for kind, handler in list(app.exception_handlers.items()):
        app.add_exception_handler(kind, _on_pages(handler))  # type: ignore[arg-type]  # ours are all of one shape


def _on_pages(handler: Handler) -> Handler:
    async def handle(request: Request, error: Exception) -> Response:
        document = await handler(request, error)
        if document.media_type != "application/problem+json" or not (browser.wants_page(request.scope) or _is_part_of_page(request)):
            return document
        problem = json.loads(bytes(document.body))
        fields = {key: problem.get(key) for key in ("title", "detail", "hint", "code", "request_id")}
        page = framed(request, Content(problem["title"], render("error.html", **fields), status=document.status_code))
        page.headers.update({name: value for name, value in document.headers.items() if name in ("retry-after", "allow")})
        return page

    return handle


def _is_part_of_page(request: Request) -> bool:
    return browser.is_page(request.url.path) and browser.is_part(request.scope)
