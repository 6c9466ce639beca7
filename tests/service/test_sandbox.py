"""What confines jobs of the service that the README starts, with its state in the checkout."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from engine.process.sandbox.attempts import BEYOND_TIER_1


def test_the_probe_of_make_serve_denies_every_line(service_url: str, service_folder: Path) -> None:
    chosen = _chosen(service_folder / "serve.log")
    has_namespaces = subprocess.run(["unshare", "--user", "--pid", "--fork", "true"], check=False).returncode == 0
    assert chosen["tier"] == (2 if has_namespaces else 1)
    assert set(chosen["open"]) == (set() if has_namespaces else BEYOND_TIER_1)


def _chosen(log: Path) -> dict[str, Any]:
    """What the worker said when it had run its probe."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for line in log.read_text(errors="replace").splitlines():
            if "isolation chosen" in line:
                return dict(json.loads(line))
        time.sleep(0.1)
    raise AssertionError(f"no worker has run its probe\n{log.read_text(errors='replace')[-4000:]}")
