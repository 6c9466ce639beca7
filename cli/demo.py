"""`modelpress demo`: the main job through the whole real service, on the embedded default."""

import json
import sys
import time
from pathlib import Path

import yaml
from rich.console import Console

from cli.live import Live
from cli.own_service import own_service
from engine.reporting import document as report
from engine.reporting.text import summary_table
from modelpress import ApiError, Client, JobHandle

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def submit(client: Client) -> JobHandle:
    """Upload the example network and digits and post `digits.yaml`; returns the job."""
    metadata = json.loads((EXAMPLES / "digits.metadata.json").read_text())
    model = client.models.upload(EXAMPLES / "digits.onnx", format="onnx")
    dataset = client.datasets.upload(EXAMPLES / "digits.npz", format="npz", metadata=metadata)
    spec = yaml.safe_load((EXAMPLES / "digits.yaml").read_text())
    return client.jobs.create({**spec, "model": model.id, "dataset": dataset.id})


def run(out: Path) -> int:
    """Start a service, run the demo job, write `report.html`, `report.json` and `model.onnx` below `out`; returns the exit code."""
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    data_dir = out / "data"
    try:
        with own_service(data_dir, out / "serve.log") as client:
            console.print(
                f"Service at {client.base_url} (SQLite, embedded Valkey, local blobs), ready in {time.monotonic() - started:.1f} s"
            )
            submitted = submit(client)
            console.print(f"Job {submitted.id}: {submitted.name}")
            with Live(console) as live:
                job = submitted.wait(on_event=live.on_event)
            if job.status != "succeeded":
                error = job.error
                console.print(f"[red]The job {job.status}[/]" + (f": {error.code}: {error.message} {error.hint or ''}" if error else ""))
                return 1
            job.download(out)
            _show(console, job, client.base_url, out, data_dir)
    except ApiError as error:
        console.print(f"[red]{error}[/]")
        return 1
    console.print(f"Done in {time.monotonic() - started:.0f} s.")
    return 0


def _show(console: Console, job: JobHandle, base: str, out: Path, data_dir: Path) -> None:
    print(summary_table(report.read((out / "report.json").read_bytes())))
    for warning in job.warnings:
        console.print(f"[yellow]{warning.code}[/]: {warning.message}")
    program = Path(sys.argv[0]).with_name("modelpress")
    console.print(f"Wrote {out / 'report.html'}, {out / 'report.json'} and {out / 'model.onnx'}.\n")
    console.print("See the report and repeat the job:", highlight=False)
    port = base.rpartition(":")[2]
    for line in (
        f"  {program if program.exists() else 'modelpress'} serve --port {port} --data-dir {data_dir}",
        f"  open {base}/v1/jobs/{job.id}/report.html",
        f"  curl -s {base}/v1/jobs/{job.id} | python3 -c 'import json,sys; print(json.dumps(json.load(sys.stdin)[\"normalized_spec\"]))' \\",
        f"    | curl -s {base}/v1/jobs -H 'Content-Type: application/json' --data-binary @-",
    ):
        print(line)
