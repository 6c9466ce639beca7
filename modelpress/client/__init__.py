"""The client of a Modelpress service: `Client`, and `AsyncClient` for programs that run an event loop.

    from modelpress import Client

    with Client("http://127.0.0.1:8000") as client:
        model = client.models.upload("net.onnx")
        data = client.datasets.upload("data.npz")
        job = client.jobs.create({"model": model.id, "dataset": data.id, "quantize": "int8"}).wait(on_event=print)
        job.ensure_succeeded().download("out")

It needs httpx and pydantic, and loads no torch.
"""

from modelpress.client.asynchronous.client import AsyncClient
from modelpress.client.asynchronous.jobs import AsyncJobHandle
from modelpress.client.errors import ApiError, ConnectionFailed, JobFailed, ModelpressError, TransferError, UploadInterrupted, WaitTimeout
from modelpress.client.synchronous.client import Client
from modelpress.client.synchronous.jobs import JobHandle
from modelpress.resources.signatures import InvalidSignature
from modelpress.resources.signatures import verify as verify_webhook
from modelpress.resources.webhooks import MlflowTracker

__all__ = [
    "ApiError",
    "AsyncClient",
    "AsyncJobHandle",
    "Client",
    "ConnectionFailed",
    "InvalidSignature",
    "JobFailed",
    "JobHandle",
    "MlflowTracker",
    "ModelpressError",
    "TransferError",
    "UploadInterrupted",
    "WaitTimeout",
    "verify_webhook",
]
