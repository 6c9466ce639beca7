"""The type of a JSON document, for what travels as one: specs, entries of reports, lines between processes."""

from pydantic import JsonValue

JsonObject = dict[str, JsonValue]
