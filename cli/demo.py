"""`modelpress demo`: the main job through the whole real service, on the embedded default."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from cli.client import TERMINAL, ApiError, Client

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
ROWS = (
    ("accuracy (test top-1)", "test.top1", "{:.2%}"),
    ("file", "file_bytes", "{:,} B"),
    ("file, gzipped", "gzip_bytes", "{:,} B"),
    ("parameters", "params_count", "{:,}"),
    ("multiply-accumulates", "macs_count", "{:,}"),
    ("latency p50", "latency_ms.p50", "{:.3f} ms"),
    ("latency p95", "latency_ms.p95", "{:.3f} ms"),
)


def submit(client: Client) -> dict[str, Any]:
    """Upload the example network and digits and post `digits.yaml`; returns the job."""
    metadata = json.loads((EXAMPLES / "digits.metadata.json").read_text())
    model = client.upload("models", EXAMPLES / "digits.onnx", "onnx")
    dataset = client.upload("datasets", EXAMPLES / "digits.npz", "npz", metadata)
    spec = yaml.safe_load((EXAMPLES / "digits.yaml").read_text())
    job: dict[str, Any] = client.json("POST", "/v1/jobs", {**spec, "model": model["id"], "dataset": dataset["id"]})
    return job


def run(out: Path) -> int:
    """Start a service, run the demo job, write `report.html`, `report.json` and `model.onnx` below `out`; returns the exit code."""
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    port = _free_port(8000)
    data_dir = out / "data"
    command = [sys.executable, "-m", "cli.main", "serve", "--host", "127.0.0.1", "--port", str(port), "--data-dir", str(data_dir)]
    with (out / "serve.log").open("wb") as log:
        service = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env={**os.environ})
    try:
        client = Client(f"http://127.0.0.1:{port}")
        wait_until_ready(client, service, out / "serve.log")
        console.print(f"Service at {client.base_url} (SQLite, embedded Valkey, local blobs), ready in {time.monotonic() - started:.1f} s")
        job = _follow(client, submit(client), console)
        if job["status"] != "succeeded":
            error = job["error"] or {}
            console.print(f"[red]The job {job['status']}[/]: {error.get('code')}: {error.get('message')} {error.get('hint') or ''}")
            return 1
        _keep(client, job, out)
        _show(console, job, out, data_dir, port)
        console.print(f"Done in {time.monotonic() - started:.0f} s.")
        return 0
    except ApiError as error:
        console.print(f"[red]{error}[/]")
        return 1
    finally:
        service.send_signal(signal.SIGTERM)
        try:
            service.wait(30)
        except subprocess.TimeoutExpired:
            service.kill()


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise RuntimeError("no free port on 127.0.0.1")


def wait_until_ready(client: Client, service: "subprocess.Popen[bytes]", log: Path, seconds: float = 90) -> None:
    """Wait until a service that was just started answers; ends the program with its log where it does not."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if service.poll() is not None:
            raise SystemExit(f"The service ended with {service.returncode}:\n{log.read_text(errors='replace')[-2000:]}")
        try:
            client.json("GET", "/readyz")
            return
        except (OSError, ApiError):
            time.sleep(0.2)
    raise SystemExit(f"The service was not ready within {seconds:.0f} s:\n{log.read_text(errors='replace')[-2000:]}")


def _follow(client: Client, submitted: dict[str, Any], console: Console) -> dict[str, Any]:
    """Show live progress until the job is terminal: a bar on a terminal, a line for every new message elsewhere."""
    console.print(f"Job {submitted['id']}: {submitted['spec'].get('name')}")
    job = submitted
    bar = Progress(
        TextColumn("{task.description:<40}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), console=console, transient=True
    )
    last = ""
    with bar:
        task = bar.add_task("queued", total=1.0)
        for job in client.follow(submitted["id"]):
            progress = job["progress"] or {}
            text = " · ".join(part for part in (job["phase"], progress.get("message")) if part) or job["status"]
            bar.update(task, completed=progress.get("fraction") or 0.0, description=text)
            if not console.is_terminal and text != last:
                console.print(f"  {progress.get('fraction') or 0:4.0%}  {text}", highlight=False)
            last = text
    assert job["status"] in TERMINAL
    return job


def _keep(client: Client, job: dict[str, Any], out: Path) -> None:
    for form in ("json", "html", "md"):
        client.download(f"/v1/jobs/{job['id']}/report.{form}", out / f"report.{form}")
    artifacts = client.json("GET", f"/v1/jobs/{job['id']}/artifacts")["data"]
    model = next(artifact for artifact in artifacts if artifact["kind"] == "model" and artifact["format"] == "onnx")
    client.download(f"/v1/artifacts/{model['id']}/content", out / "model.onnx")


def _value(figures: dict[str, Any], key: str) -> Any:
    if key in figures["metrics"]:
        return figures["metrics"][key]
    value: Any = figures
    for part in key.split("."):
        value = value[part]
    return value


def _show(console: Console, job: dict[str, Any], out: Path, data_dir: Path, port: int) -> None:
    baseline, result = job["summary"]["baseline"], job["summary"]["result"]
    table = Table(title="Measured on the published file, reloaded in a fresh process")
    for heading in ("", "before", "after", "change"):
        table.add_column(heading, justify="left" if not heading else "right")
    for title, key, form in ROWS:
        before, after = _value(baseline, key), _value(result, key)
        change = f"{100 * (after - before):+.2f} points" if key.startswith("test.") else f"{before / after:.2f}× less"
        table.add_row(title, form.format(before), form.format(after), change)
    console.print(table)
    console.print(f"Outcome: {job['outcome']}; speed: {job['summary']['verdict']}")
    for warning in job["warnings"]:
        console.print(f"[yellow]{warning['code']}[/]: {warning['message']}")
    base, program = f"http://127.0.0.1:{port}", Path(sys.argv[0]).with_name("modelpress")
    console.print(f"Wrote {out / 'report.html'}, {out / 'report.json'} and {out / 'model.onnx'}.\n")
    console.print("See the report and repeat the job:", highlight=False)
    for line in (
        f"  {program if program.exists() else 'modelpress'} serve --port {port} --data-dir {data_dir}",
        f"  open {base}/v1/jobs/{job['id']}/report.html",
        f"  curl -s {base}/v1/jobs/{job['id']} | python3 -c 'import json,sys; print(json.dumps(json.load(sys.stdin)[\"normalized_spec\"]))' \\",
        f"    | curl -s {base}/v1/jobs -H 'Content-Type: application/json' --data-binary @-",
    ):
        print(line)
