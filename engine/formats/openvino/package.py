"""The package `openvino`, which is optional."""

from __future__ import annotations

import importlib
from typing import Any

from engine.contract.errors import EngineError


def loaded() -> Any:
    """The package. Raises `export_unsupported` naming the extra that installs it."""
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise EngineError(
            "export_unsupported",
            "The worker has no OpenVINO.",
            hint="The operator installs it: pip install 'modelpress[openvino]'; or export ONNX, which OpenVINO reads.",
        ) from error


def refused(error: Exception) -> EngineError:
    """What OpenVINO does not convert, by the last line of its error, which states the reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return EngineError("export_unsupported", f"OpenVINO does not convert it: {lines[-1][:300]}", hint="Export ONNX.")
