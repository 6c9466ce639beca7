"""Writes a network as OpenVINO IR, from its ONNX file."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from engine.contract.errors import EngineError
from engine.formats.openvino.package import loaded, refused
from engine.formats.openvino.session import ends
from engine.networks.network import Network


def write(network: Network, path: Path) -> Sequence[Path]:
    """Write the graph to `path`, and its weights in their own types to a file of the same name that ends in `.bin`.

    Raises `export_unsupported` where OpenVINO is not installed, has no such operator, or would rename an input or output.
    """
    openvino = loaded()
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        source = Path(folder) / path.with_suffix(".onnx").name
        network.write_onnx(source)
        try:
            model = openvino.convert_model(source)
            openvino.save_model(model, path, compress_to_fp16=False)
        except Exception as error:  # its errors have no type of their own
            raise refused(error) from error
    for kind, found, wanted in (
        ("inputs", ends(model.inputs), network.signature.inputs),
        ("outputs", ends(model.outputs), network.signature.outputs),
    ):
        if [(item.name, item.element) for item in found] != [(spec.name, spec.dtype) for spec in wanted]:
            names = ", ".join(f"{item.name} ({item.element})" for item in found)
            raise EngineError("export_unsupported", f"Its {kind} would be {names} in OpenVINO.", hint="Export ONNX.")
    return (path, path.with_suffix(".bin"))
