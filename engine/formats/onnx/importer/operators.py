"""The operators that have a trainable form, and the refusal of those that have none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

import onnx

from engine.contract.errors import EngineError
from engine.formats.onnx.importer.builder import Builder
from engine.formats.onnx.importer.reader import KEEP_HINT, Op

Handler = Callable[[Op, Builder], Any]
_FAMILIES = (
    "activations",
    "attention",
    "elementwise",
    "linear",
    "making",
    "normalization",
    "pooling",
    "recurrent",
    "reductions",
    "reshape",
    "resize",
    "sampling",
    "scattering",
    "sequences",
    "shapes",
)
"""Modules of this folder, each with the operators of one kind."""
OPERATORS: Mapping[str, Handler] = {
    name: handler for family in _FAMILIES for name, handler in import_module(f"{__package__}.{family}").OPERATORS.items()
}
OWN_DOMAIN = "modelpress"
"""Of operators that a method writes into a graph before it is rebuilt, and handles itself."""
NO_OPERATORS: Mapping[str, Handler] = {}
BODIES: Mapping[str, str] = {"Loop": "body", "Scan": "body"}
"""The attribute that holds what an operator repeats."""
BY_DATA = "control flow depends on the data"


def refuse_unknown(nodes: Iterable[onnx.NodeProto], opset: int) -> None:
    """Raise `unsupported_operator` for the first node that has no trainable form, `model_invalid` for one that lacks something."""
    for node in nodes:
        standard = node.domain in ("", "ai.onnx")
        if standard and (node.op_type == "If" or node.op_type in BODIES) and node.input and any(node.output):
            continue
        if standard and node.op_type in OPERATORS:
            if len(node.input) < _fewest_inputs(node.op_type, opset) or not node.output:
                raise EngineError("model_invalid", f"Node {node.name or '(unnamed)'} ({node.op_type}) lacks inputs or outputs.")
            continue
        kind = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        reason = BY_DATA if node.op_type == "SequenceMap" else "the operator has no trainable form here"
        raise EngineError(
            "unsupported_operator",
            f"Node {node.name or '(unnamed)'} ({kind}) cannot be made trainable: {reason}.",
            hint=KEEP_HINT,
            details={"node": node.name, "operator": kind},
        )


def _fewest_inputs(kind: str, opset: int) -> int:
    try:
        return int(onnx.defs.get_schema(kind, opset).min_input)
    except onnx.defs.SchemaError:
        return 1
