"""Swagger UI from the service's own files: no page asks another origin."""

from importlib import resources
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import Response

from core.errors import NotFound

router = APIRouter(include_in_schema=False)

_OWN = Path(__file__).parents[1] / "static"
_FILES = {
    "docs.js": "text/javascript",
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'"


@router.get("/docs")
def docs() -> Response:
    """The interactive documentation."""
    return Response((_OWN / "docs.html").read_bytes(), media_type="text/html", headers={"Content-Security-Policy": _POLICY})


@router.get("/docs/{filename}")
def asset(filename: str) -> Response:
    """One file of the documentation page."""
    if filename not in _FILES:
        raise NotFound(f"nothing is at /docs/{filename}")
    folder = _OWN if filename == "docs.js" else resources.files("fastapi_swagger") / "resources"
    return Response((folder / filename).read_bytes(), media_type=_FILES[filename], headers={"Cache-Control": "max-age=3600"})
