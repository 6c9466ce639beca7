"""Writes docs/errors.md from the catalogue of codes; `--check` fails where the file is not fresh."""

import sys
from pathlib import Path

from generated import write_or_check

from api.app import create_app
from api.codes.catalogue import entries
from core.settings import Settings

TARGET = Path(__file__).with_name("errors.md")
HEAD = """# Errors

Written by `make docs`; do not edit. Every error of the API is a problem document (RFC 9457) with a stable `code`, a sentence (`detail`), what to do (`hint`) and,
for documents, every place in `errors`. Its `type` is a page of the service, `/problems/<code>`, that says the same as this table. A job that failed, and a file
that cannot be used, have such a code in `error`.

| code | status | what it means | what to do |
|---|---|---|---|
"""


def main() -> int:
    """Write the file, or compare it."""
    create_app(Settings())  # loads every kind of error
    rows = [f"| `{e.code}` | {e.status or 'job, file'} | {e.meaning} | {e.remedy} |\n" for e in entries().values()]
    text = HEAD + "".join(rows).replace("<name>", "\\<name>")
    return write_or_check(TARGET, text)


if __name__ == "__main__":
    sys.exit(main())
