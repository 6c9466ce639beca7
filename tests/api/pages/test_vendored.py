"""Files of others are theirs, byte for byte, and stand beside their licences."""

import hashlib
from pathlib import Path

import pytest

from api.pages.rendering import HERE

VENDORED = {"htmx.min.js": "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717"}
OWN = {"pages.js", "upload.js", "pages.css", "icon.svg"}


@pytest.mark.parametrize("name", VENDORED)
def test_what_others_wrote_is_unchanged_and_licensed(name: str) -> None:
    assert hashlib.sha256((HERE / "static" / name).read_bytes()).hexdigest() == VENDORED[name]
    licence = HERE / "static" / f"{name.partition('.')[0]}.LICENSE.txt"
    assert len(licence.read_text(encoding="utf-8")) > 300


def test_every_file_is_ours_or_known() -> None:
    found = {path.name for path in (HERE / "static").iterdir() if not path.name.endswith(".LICENSE.txt")}
    assert found == OWN | VENDORED.keys()


def test_axe_is_its_authors() -> None:
    folder = Path(__file__).parents[2] / "vendored"
    assert (
        hashlib.sha256((folder / "axe.min.js").read_bytes()).hexdigest()
        == "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
    )
    assert "Mozilla Public License" in (folder / "axe.LICENSE.txt").read_text(encoding="utf-8")
