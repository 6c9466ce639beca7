"""Run by `test_generated_client`: the way of a model through the service with a client that a program wrote from docs/openapi.json."""

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from generated_client import Client
from generated_client.api.artifacts import download_artifact, list_artifacts
from generated_client.api.datasets import create_dataset
from generated_client.api.jobs import create_job, get_job, get_report, validate_spec
from generated_client.api.models import create_model, get_model
from generated_client.models import CreateDatasetFormat, CreateModelFormat, JobStatus, Problem, Report, Spec
from generated_client.types import File

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ENDED = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)


def main(url: str) -> None:
    client = Client(base_url=url, raise_on_unexpected_status=True, timeout=60)
    with (EXAMPLES / "digits.onnx").open("rb") as stream:
        model: Any = create_model.sync(client=client, body=File(payload=stream), name="generated", format_=CreateModelFormat.ONNX)
    metadata = (EXAMPLES / "digits.metadata.json").read_text()
    with (EXAMPLES / "digits.npz").open("rb") as stream:
        dataset: Any = create_dataset.sync(client=client, body=File(payload=stream), format_=CreateDatasetFormat.NPZ, metadata=metadata)
    deadline = time.monotonic() + 60
    while get_model.sync(model.id, client=client).status != "ready":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    mistake: Any = create_job.sync(client=client, body=Spec.from_dict({"model": "net.onnx", "quantize": "int8"}))
    assert isinstance(mistake, Problem)
    assert mistake.errors[0].pointer == "/model"
    spec = Spec.from_dict({"model": model.id, "dataset": dataset.id, "quantize": "int8", "constraints": {"accuracy": {"max_drop": 0.01}}})
    plan: Any = validate_spec.sync(client=client, body=spec)
    assert plan.valid, plan
    job: Any = create_job.sync(client=client, body=spec, idempotency_key=f"generated-{model.id}")
    while job.status not in ENDED:
        assert time.monotonic() < deadline, job
        job = get_job.sync(job.id, client=client, prefer="wait=10")
    assert job.status == JobStatus.SUCCEEDED, job.error
    report = get_report.sync(job.id, client=client)
    assert isinstance(report, Report)
    assert report.outcome == job.outcome
    artifacts: Any = list_artifacts.sync(job.id, client=client)
    (smaller,) = (item for item in artifacts.data if item.kind == "model")
    answer = download_artifact.sync_detailed(smaller.id, client=client)
    assert hashlib.sha256(answer.content).hexdigest() == smaller.sha256
    sys.stdout.write(json.dumps({"file_bytes": len(answer.content), "reported": report.result.file_bytes, "model": model.size_bytes}))


if __name__ == "__main__":
    main(sys.argv[1])
