"""The README's examples are run as they stand, against a real service."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize(
    ("language", "command", "says"),
    [
        ("bash", ["bash", "-euo", "pipefail", "-c"], "all constraints met"),
        ("python", [sys.executable, "-c"], "no_constraints"),
    ],
)
def test_example_runs(language: str, command: list[str], says: str, service_url: str) -> None:
    (code,) = blocks(language)
    assert "http://127.0.0.1:8000" in code
    command = [*command, code.replace("http://127.0.0.1:8000", service_url)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    assert says in done.stdout


def test_links_point_at_files() -> None:
    targets = re.findall(r"\]\((?!http)([^)#]+)", TEXT)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []
