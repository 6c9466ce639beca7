"""Every hostile file is refused with its code, or read harmlessly, within seconds and megabytes; no payload runs."""

import json
import subprocess
import sys
from pathlib import Path

from tests.engine.files import corpus

ROOT = Path(__file__).parents[3]
MOST_SECONDS, MOST_MIB = 12.0, 350


def test_hostile_files_are_refused_with_their_codes_within_their_budgets(tmp_path: Path) -> None:
    corpus.write(tmp_path)
    ran = subprocess.run(
        [sys.executable, "-m", "tests.engine.files.corpus", str(tmp_path)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = {line["name"]: line for line in map(json.loads, ran.stdout.splitlines())}
    assert set(found) == set(corpus.ROWS)
    wrong = {name: line["code"] for name, line in found.items() if line["code"] not in corpus.ROWS[name][2]}
    assert wrong == {}
    assert {name: line for name, line in found.items() if line["seconds"] > MOST_SECONDS or line["mib"] > MOST_MIB} == {}
    assert list(tmp_path.rglob("marker")) == []
