"""Write `modelpress/client/synchronous` from its asynchronous twin, or say that it is stale: `python docs/generate_client.py [--check]`."""

import re
import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).resolve().parents[1] / "modelpress" / "client"
SOURCE, TARGET = CLIENT / "asynchronous", CLIENT / "synchronous"
OWN = {"tools.py"}
"""What each of the two says in its own way."""
HEAD = '"""Written by `make docs` from the module of this name in `modelpress.client.asynchronous`; do not edit."""\n'
CHANGES = (
    (r"\basync (def|for|with)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\b_?Async(?=[A-Z])", lambda found: "_" if found[0].startswith("_") else ""),
    (r"\baclose\b", "close"),
    (r"\ba(iter_lines|iter_raw|read)\b", r"\1"),
    (r"__a(enter|exit)__", r"__\1__"),
    (r"modelpress\.client\.asynchronous", "modelpress.client.synchronous"),
)


def main() -> int:
    """Write the files, or with `--check` end with 1 where they are others."""
    fresh = True
    for source in sorted(SOURCE.glob("*.py")):
        if source.name in OWN:
            continue
        target, text = TARGET / source.name, synchronous(source.read_text())
        if "--check" in sys.argv:
            fresh = fresh and target.exists() and target.read_text() == text
        else:
            target.write_text(text)
    if not fresh:
        print("modelpress/client/synchronous is stale: run `make docs`")
    return 0 if fresh else 1


def synchronous(text: str) -> str:
    """A module without coroutines that does the same."""
    body = re.sub(r'\A"""(.*?)"""\n', "", text, count=1, flags=re.DOTALL)
    for pattern, replacement in CHANGES:
        body = re.sub(pattern, replacement, body)
    return formatted(HEAD + body)


def formatted(text: str) -> str:
    """The text as ruff leaves it."""
    for command in (["check", "--fix", "--quiet", "--select", "I"], ["format", "--quiet"]):
        name = str(TARGET / "client.py")
        text = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", name, "-"], input=text, capture_output=True, text=True, check=True
        ).stdout
    return text


if __name__ == "__main__":
    sys.exit(main())
