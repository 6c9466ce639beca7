"""Words and labels that clients choose, as fields of documents and of queries."""

from typing import Annotated

from pydantic import Field

PRINTABLE = r"^[^\x00-\x1f\x7f]+$"
"""A pattern for words that clients choose: databases and terminals take no control characters."""
Word = Annotated[str, Field(max_length=400, pattern=PRINTABLE)]
Text = Annotated[str, Field(max_length=255, pattern=r"^[^\x00-\x1f\x7f]*$")]
Labels = Annotated[dict[Annotated[str, Field(max_length=63, pattern=PRINTABLE)], Text], Field(max_length=16)]
"""Pairs to find a thing by."""
LabelChanges = Annotated[dict[Annotated[str, Field(max_length=63, pattern=PRINTABLE)], Text | None], Field(max_length=32)]
"""Labels to give or to change; null takes one away."""
