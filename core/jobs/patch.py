"""Specs that are made of other specs: JSON Merge Patch (RFC 7396)."""

from typing import Any


def merged(document: Any, patch: Any) -> Any:
    """The document with what the patch gives: null takes a member away, objects are merged, all else is put in the place of what was."""
    if not isinstance(patch, dict):
        return patch
    result = dict(document) if isinstance(document, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result
