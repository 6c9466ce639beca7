"""What clients may rely on in an OpenAPI document, as a set of sentences: a later version has all of them."""

from collections.abc import Iterator
from typing import Any

_METHODS = ("get", "put", "post", "delete", "patch", "head")


def promises(document: dict[str, Any]) -> set[str]:
    """Routes, parameters, bodies, answers, and every property of every schema with its types; nothing about texts and examples."""
    return set(_routes(document)) | set(_schemas(document))


def demands(document: dict[str, Any]) -> set[str]:
    """What a client must send: a later version asks for nothing more."""
    found = set()
    for path, method, operation in _operations(document):
        for parameter in operation.get("parameters", ()):
            if parameter.get("required"):
                found.add(f"{method} {path} needs the parameter {parameter['name']}")
        if operation.get("requestBody", {}).get("required"):
            found.add(f"{method} {path} needs a body")
    sent = {name for _, _, operation in _operations(document) for name in _names(operation.get("requestBody", {}))}
    schemas, waiting = document["components"]["schemas"], sent
    seen: set[str] = set()
    while waiting := waiting - seen:
        seen |= waiting
        found |= {f"{name} needs {field}" for name in waiting for field in schemas[name].get("required", ())}
        waiting = {inner for name in waiting for inner in _names(schemas[name])}
    return found


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                yield path, method.upper(), item[method]


def _routes(document: dict[str, Any]) -> Iterator[str]:
    schemas = document["components"]["schemas"]
    for path, method, operation in _operations(document):
        route = f"{method} {path}"
        yield f"{route} is {operation['operationId']}"
        for parameter in operation.get("parameters", ()):
            for kind in _kinds(parameter["schema"], schemas):
                yield f"{route} takes {parameter['in']} {parameter['name']}: {kind}"
        for media, content in operation.get("requestBody", {}).get("content", {}).items():
            for kind in _kinds(content.get("schema", {}), schemas):
                yield f"{route} takes {media}: {kind}"
        for status, answer in operation["responses"].items():
            yield f"{route} answers {status}"
            for media, content in answer.get("content", {}).items():
                for kind in _kinds(content.get("schema", {}), schemas):
                    yield f"{route} answers {status} {media}: {kind}"


def _schemas(document: dict[str, Any]) -> Iterator[str]:
    schemas = document["components"]["schemas"]
    for name, schema in schemas.items():
        yield f"{name} is there"
        for field, inner in schema.get("properties", {}).items():
            for kind in _kinds(inner, schemas):
                yield f"{name}.{field}: {kind}"
        yield from (f"{name} always has {field}" for field in schema.get("required", ()))


def _kinds(schema: dict[str, Any], schemas: dict[str, Any]) -> Iterator[str]:
    """Every type that a value may have; a reference is its name and what stands there."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        yield name
        if schemas[name].get("type"):
            yield schemas[name]["type"]
    for choices in ("anyOf", "oneOf", "allOf"):
        for choice in schema.get(choices, ()):
            yield from _kinds(choice, schemas)
    if "items" in schema:
        yield from (f"list of {kind}" for kind in _kinds(schema["items"], schemas))
    yield from (f"{value!r}" for value in (*schema.get("enum", ()), *([schema["const"]] if "const" in schema else [])))
    if isinstance(schema.get("type"), str):
        yield schema["type"]


def _names(schema: Any) -> set[str]:
    """Names of the schemas that are referred to."""
    if isinstance(schema, dict):
        own = {schema["$ref"].rpartition("/")[2]} if isinstance(schema.get("$ref"), str) else set()
        return own.union(*(_names(value) for value in schema.values()))
    return set().union(*map(_names, schema)) if isinstance(schema, list) else set()
