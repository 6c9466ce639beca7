"""The OpenAPI document is good enough for a program that writes clients: what it writes does a whole job."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REASONS = {
    "Unsupported content type application/yaml": "specs may be sent as YAML as well; the generator knows JSON only, and writes that",
    "Unsupported content type application/merge-patch+json": "the same body as application/json, under the name that RFC 7396 gives it",
}
"""What the generator may say, and why."""


def test_a_generated_client_does_a_job(service_url: str, tmp_path: Path) -> None:
    target = tmp_path / "generated_client"
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(tmp_path)}
    command = [
        "openapi-python-client",
        "generate",
        "--path",
        str(ROOT / "docs" / "openapi.json"),
        "--output-path",
        str(target),
        "--meta",
        "none",
    ]
    made = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=True)
    said = made.stdout + made.stderr
    assert "will not be generated" not in said
    found = {
        line for line in said.splitlines() if line.startswith(("Unsupported", "Unable", "Attempted", "Could not", "Cannot", "Failure"))
    }
    assert found <= REASONS.keys(), said
    script = Path(__file__).with_name("generated.py")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), service_url], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(done.stdout)
    assert figures["file_bytes"] == figures["reported"] < figures["model"] / 2
