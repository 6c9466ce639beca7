"""An Airflow DAG that compresses a network every week; it needs `modelpress`, `httpx` and `pydantic` on the workers, and no GPU there.

The sensor frees its slot between two looks (`mode="reschedule"`), so that a job of many hours holds none.
"""

from datetime import datetime, timedelta

from airflow.decorators import dag, task
from airflow.sensors.base import PokeReturnValue

from modelpress import Client  # finds the service by MODELPRESS_URL and MODELPRESS_API_KEY


@dag(schedule="@weekly", start_date=datetime(2026, 1, 1), catchup=False, params={"model": "net.onnx", "data": "data.npz", "out": "out"})
def compress():
    """Submit, wait, fetch."""

    @task(retries=3)
    def submit(params=None, run_id=None) -> str:
        """The id of the job; under this key a retried task makes no second one."""
        with Client() as client:
            model = client.models.upload(params["model"], idempotency_key=f"{run_id}-model")
            data = client.datasets.upload(params["data"], idempotency_key=f"{run_id}-data")
            constraints = {"accuracy": {"max_drop": 0.01}}
            spec = {
                "model": model.id,
                "dataset": data.id,
                "quantize": "int8",
                "constraints": constraints,
                "labels": {"pipeline": "airflow"},
            }
            return client.jobs.create(spec, idempotency_key=f"{run_id}-job").id

    @task.sensor(mode="reschedule", poke_interval=timedelta(seconds=30), timeout=timedelta(hours=24))
    def ended(job_id: str) -> PokeReturnValue:
        """Whether the job has ended."""
        with Client() as client:
            return PokeReturnValue(is_done=client.jobs.get(job_id).ended, xcom_value=job_id)

    @task
    def fetch(job_id: str, params=None) -> list[str]:
        """The files; fails where the job failed or missed its constraint."""
        with Client() as client:
            job = client.jobs.get(job_id).ensure_succeeded()
            if job.outcome == "constraints_not_met":
                raise RuntimeError(f"{job.id} lost more than a point of accuracy")
            return [str(path) for path in job.download(params["out"])]

    fetch(ended(submit()))


compress()
