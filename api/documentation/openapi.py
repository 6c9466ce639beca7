"""The OpenAPI document: served, and kept in `docs/openapi.json` so that a change of the contract shows in review.

`docs/generate_openapi.py` writes the file.
"""

import copy
import functools
import json
import threading
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from fastapi.routing import APIRoute

from api.examples import EXAMPLES
from api.front.authentication import PUBLIC
from api.http.fields import body_of
from api.http.problems import MEDIA_TYPE
from api.http.routing import scopes_of
from engine.contract.partial import PartialReport
from engine.contract.report import Report
from engine.contract.spec import json_schema
from modelpress.resources.common import Problem

DESCRIPTION = """\
Compress neural networks: upload a model and a dataset, post a spec, poll the job, download artifacts whose metrics were measured on
the very file that you download.

Errors are `application/problem+json` with a stable `code`. Lists page with `limit` and `after`. Every response carries `X-Request-Id`.
"""
TAGS = [
    {"name": "models", "description": "Uploaded neural networks."},
    {"name": "datasets", "description": "Uploaded examples."},
    {"name": "methods", "description": "What this installation can do."},
    {"name": "jobs", "description": "Compressions: submit, follow, stop."},
    {"name": "artifacts", "description": "What jobs published."},
    {"name": "uploads", "description": "Files in numbered parts, resumable."},
    {"name": "webhooks", "description": "News of jobs for other programs."},
    {"name": "service", "description": "Health, version, figures."},
]


def install(app: FastAPI) -> None:
    """Serve the document."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = build(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to extend it

    building = threading.Lock()

    @functools.cache
    def written() -> bytes:
        return json.dumps(app.openapi()).encode()

    @app.get("/openapi.json", include_in_schema=False)
    def document() -> Response:
        with building:  # once, however many ask at first
            content = written()
        return Response(content, media_type="application/json")


def build(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document with problems instead of its own error shapes, the spec's schema, and the keys' scopes."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        tags=app.openapi_tags,
        routes=app.routes,
        separate_input_output_schemas=False,
    )
    components = document["components"]
    schemas = components["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas |= _schemas_of("Problem", Problem.model_json_schema(ref_template="#/components/schemas/{model}"))
    schemas |= _spec_schemas()
    schemas |= _report_schemas(schemas)
    schemas["SpecPatch"] = {
        "type": "object",
        "title": "SpecPatch",
        "description": "A merge patch of a spec (RFC 7396): any of its fields, and null for one that is to be left out.",
        "additionalProperties": True,
    }
    schemas["SpecTemplate"] = {name: value for name, value in schemas["Spec"].items() if name != "required"} | {
        "title": "SpecTemplate",
        "description": "A spec, or a part of one: `model` and `dataset` may be left to the jobs.",
    }
    components["securitySchemes"] = {"ApiKey": {"type": "http", "scheme": "bearer", "bearerFormat": "mp_<id>_<secret>"}}
    for route in app.routes:
        if isinstance(route, APIRoute) and route.include_in_schema:
            for method in route.methods or ():
                _complete(document["paths"][route.path_format][method.lower()], route, schemas)
    schemas["NewTemplate"]["properties"]["spec"] = {"$ref": "#/components/schemas/SpecTemplate"}
    components["schemas"] = dict(sorted(schemas.items()))
    document["x-example-ids"] = EXAMPLES
    return document


def _complete(operation: dict[str, Any], route: APIRoute, schemas: dict[str, Any]) -> None:
    if (model := body_of(route.dependant)) is not None:
        schemas |= _schemas_of(model.__name__, model.model_json_schema(ref_template="#/components/schemas/{model}"))
        required = any(field.is_required() for field in model.model_fields.values())
        reference = {"$ref": f"#/components/schemas/{model.__name__}"}
        operation["requestBody"] = {"required": required, "content": {"application/json": {"schema": reference}}}
    for parameter in operation.get("parameters", ()):
        parameter["schema"] = _without_null(parameter["schema"])
        # The Swagger UI fills a parameter from its own example only, not from those of its schema. Filters stay empty.
        if parameter["required"] and (examples := parameter["schema"].get("examples")):
            parameter["example"] = examples[0]
    problem = {"content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    answers = operation["responses"]
    if "HTTPValidationError" in json.dumps(answers.get("422", {})):
        answers["422"] = {"description": "Unprocessable Content", **problem}
    answers["default"] = {"description": "Any other error", **problem}
    scopes = sorted(set(scopes_of(route.dependant)))
    if route.path in PUBLIC:
        operation["security"] = []
    else:
        operation["security"] = [{"ApiKey": [scope]} for scope in scopes] or [{"ApiKey": []}]
        for status, description in (("401", "No valid API key"), ("403", "The key lacks a scope")):
            answers[status] = {"description": description, **problem}
    operation["responses"] = dict(sorted(answers.items()))


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """What is left out of a query or of the headers is not sent: a null would be the word."""
    kinds: list[dict[str, Any]] = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    return kinds[0] | {name: value for name, value in schema.items() if name != "anyOf"}


def _schemas_of(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A schema and its definitions, as components."""
    definitions = schema.pop("$defs", {})
    return {name: schema, **definitions}


def _report_schemas(known: dict[str, Any]) -> dict[str, Any]:
    """The schemas of `report.json`; parts of it that are called like another thing get a prefix."""
    schemas: dict[str, Any] = {}
    parts: dict[str, Any] = {}
    for model in (Report, PartialReport):
        schema = model.model_json_schema(mode="serialization")
        parts |= schema.pop("$defs")
        schemas[model.__name__] = schema
    named = {name: name if known.get(name, part) == part else f"Report{name}" for name, part in _referring(parts, {}).items()}
    found = _referring({**schemas, **parts}, named)
    return {named.get(name, name): _titled(part, named.get(name, name)) for name, part in found.items()}


def _titled(schema: dict[str, Any], name: str) -> dict[str, Any]:
    """A schema whose title is its name: programs that write clients call their classes by it."""
    return {**schema, "title": name}


def _referring(parts: dict[str, Any], named: dict[str, str]) -> dict[str, Any]:
    """Schemas that refer to each other as components, under the names that they get there."""
    text = json.dumps(parts)
    for name in parts:
        text = text.replace(f'"#/$defs/{name}"', f'"#/components/schemas/{named.get(name, name)}"')
    found: dict[str, Any] = json.loads(text)
    return found


def _spec_schemas() -> dict[str, Any]:
    """The spec's own schema; its parts get a prefix of their own, as some are called like parts of the API."""
    schema = copy.deepcopy(json_schema())
    schema.pop("$schema")
    names = schema["$defs"]
    text = json.dumps(schema)
    for name in names:
        text = text.replace(f'"#/$defs/{name}"', f'"#/components/schemas/Spec{name}"')
    schema = json.loads(text)
    return {
        "Spec": {key: value for key, value in schema.items() if key != "$defs"},
        **{f"Spec{name}": _titled(schema["$defs"][name], f"Spec{name}") for name in names},
    }
