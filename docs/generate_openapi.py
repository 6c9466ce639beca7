"""Write `docs/openapi.json` from the API, or say that it is stale: `python docs/generate_openapi.py [--check]`."""

import argparse
import json
import sys
from pathlib import Path

from api.app import create_app
from core.settings import Settings

TARGET = Path(__file__).with_name("openapi.json")


def main() -> int:
    """Write the document, or with `--check` end with 1 where the file is another."""
    parser = argparse.ArgumentParser(description="Write docs/openapi.json.")
    parser.add_argument("--check", action="store_true", help="only compare; ends with 1 where the file is stale")
    text = json.dumps(create_app(Settings(auth="required")).openapi(), indent=1, ensure_ascii=False) + "\n"
    if not parser.parse_args().check:
        TARGET.write_text(text, encoding="utf-8")
    elif not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text:
        print(f"{TARGET.name} is stale: run make docs, and note the change in CHANGELOG.md", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
