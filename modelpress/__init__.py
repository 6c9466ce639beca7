"""What users of Modelpress import in their own programs.

`from modelpress import Client` is the client of a service (httpx, pydantic); `modelpress.runtime` runs what was published (numpy,
onnxruntime). Neither loads what only the other needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelpress.client import (
        ApiError,
        AsyncClient,
        AsyncJobHandle,
        Client,
        ConnectionFailed,
        InvalidSignature,
        JobFailed,
        JobHandle,
        MlflowTracker,
        ModelpressError,
        TransferError,
        UploadInterrupted,
        WaitTimeout,
        verify_webhook,
    )

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


def __getattr__(name: str) -> Any:
    """The client is loaded when somebody asks for it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("modelpress.client"), name)
