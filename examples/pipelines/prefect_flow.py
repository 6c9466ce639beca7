"""A Prefect flow that compresses a network: `python prefect_flow.py net.onnx data.npz out`. It needs `modelpress`, `httpx` and `pydantic`."""

import sys

from prefect import flow, task
from prefect.runtime import flow_run

from modelpress import Client  # finds the service by MODELPRESS_URL and MODELPRESS_API_KEY


@task(retries=3, retry_delay_seconds=10)
def submit(model: str, data: str) -> str:
    """The id of the job; under this key a retried task makes no second one."""
    with Client() as client:
        spec = {
            "model": client.models.upload(model, idempotency_key=f"{flow_run.id}-model").id,
            "dataset": client.datasets.upload(data, idempotency_key=f"{flow_run.id}-data").id,
            "quantize": "int8",
            "constraints": {"accuracy": {"max_drop": 0.01}},
            "labels": {"pipeline": "prefect"},
        }
        return client.jobs.create(spec, idempotency_key=f"{flow_run.id}-job").id


@task(retries=10, retry_delay_seconds=30)
def wait(job_id: str) -> str:
    """How the job ended; a retried task waits for the same job."""
    with Client() as client:
        return client.jobs.wait(job_id).ensure_succeeded().outcome or ""


@task(retries=3)
def fetch(job_id: str, folder: str) -> list[str]:
    """The files."""
    with Client() as client:
        return [str(path) for path in client.jobs.download(job_id, folder)]


@flow
def compress(model: str, data: str, folder: str) -> list[str]:
    """Submit, wait, fetch; fails where the job failed or missed its constraint."""
    job_id = submit(model, data)
    if wait(job_id) == "constraints_not_met":
        raise RuntimeError(f"{job_id} lost more than a point of accuracy")
    return fetch(job_id, folder)


if __name__ == "__main__":
    print(*compress(*sys.argv[1:]), sep="\n")
