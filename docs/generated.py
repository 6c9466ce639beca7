"""How the scripts here end: they write their file, or with `--check` say whether it is fresh."""

import sys
from pathlib import Path


def write_or_check(target: Path, text: str) -> int:
    """Write `text`; with `--check` on the command line compare it, and return 1 where the file is another."""
    if "--check" not in sys.argv:
        target.write_text(text, encoding="utf-8")
        return 0
    fresh = target.exists() and target.read_text(encoding="utf-8") == text
    print(f"docs/{target.name} is fresh" if fresh else f"docs/{target.name} is stale: run `make docs`")
    return 0 if fresh else 1
