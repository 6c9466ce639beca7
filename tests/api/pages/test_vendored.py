"""Files of others are theirs, byte for byte, and stand beside their licences."""

import hashlib

import pytest

from api.pages.rendering import HERE

VENDORED = {"htmx.min.js": "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717"}
OWN = {"pages.js", "pages.css", "icon.svg"}


@pytest.mark.parametrize("name", VENDORED)
def test_what_others_wrote_is_unchanged_and_licensed(name: str) -> None:
    assert hashlib.sha256((HERE / "static" / name).read_bytes()).hexdigest() == VENDORED[name]
    licence = HERE / "static" / f"{name.partition('.')[0]}.LICENSE.txt"
    assert len(licence.read_text(encoding="utf-8")) > 300


def test_every_file_is_ours_or_known() -> None:
    found = {path.name for path in (HERE / "static").iterdir() if not path.name.endswith(".LICENSE.txt")}
    assert found == OWN | VENDORED.keys()
