"""Which operators of an exported program are run, and how their arguments are read.

A program names its operators, and torch has some that read files or load code: only those below are looked up, by name.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch

from engine.contract.errors import EngineError
from engine.formats.pt2.allowed import ALLOWED
from engine.formats.pt2.program import DTYPES, Item
from engine.formats.pt2.single import widened

_PYTHON: dict[str, Callable[..., Any]] = {
    f"_operator.{name}": getattr(operator, name)
    for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "truediv", "eq", "ne", "lt", "le", "gt", "ge", "getitem")
}
"""Arithmetic on sizes."""
ASSERTIONS = frozenset(
    {"_assert_scalar", "_assert_async", "_assert_tensor_metadata", "sym_constrain_range", "sym_constrain_range_for_size"}
)
"""What only states that sizes are as they were; not run."""
_MEMORY_FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d, 4: torch.preserve_format}
DROPPED = frozenset({"layout", "pin_memory", "non_blocking"})
"""Arguments that say how values lie in memory."""


def aten_name(target: str) -> str | None:
    """The name of an ATen operator without its overload (`conv2d`), or None where the target is something else."""
    parts = target.split(".")
    return parts[3] if len(parts) == 5 and parts[:3] == ["torch", "ops", "aten"] else None


def function_of(target: str) -> Callable[..., Any]:
    """The function of a target. Raises `unsupported_operator` for all that is not on the list."""
    if target in _PYTHON:
        return _PYTHON[target]
    name, overload = aten_name(target), target.rpartition(".")[2]
    if name is not None and (name in ALLOWED or name.removesuffix("_") in ALLOWED):
        packet = getattr(torch.ops.aten, name, None)
        if packet is not None and overload in packet.overloads():
            found: Callable[..., Any] = getattr(packet, overload)
            return found
    raise EngineError(
        "unsupported_operator",
        f"The program uses the operator {target.removeprefix('torch.ops.')[:80]!r}, which is not read.",
        hint="Upload the model as ONNX, or write that part of it with common operators.",
    )


def value_of(argument: Item, value: Callable[[str], Any]) -> Any:
    """An argument as the operator takes it; `value` gives the node of a name. Raises `unsupported_operator`."""
    ((kind, content),) = argument.items()
    match kind:
        case "as_tensor" | "as_sym_tensor":
            return value(content["name"])
        case "as_tensors":
            return [value(item["name"]) for item in content]
        case "as_optional_tensors":
            return [value(item["as_tensor"]["name"]) if "as_tensor" in item else None for item in content]
        case "as_none":
            return None
        case "as_float":
            return float(content)  # infinities are strings
        case "as_floats":
            return [float(item) for item in content]
        case "as_int" | "as_bool" | "as_string" | "as_ints" | "as_bools":
            return content
        case "as_sym_int" | "as_sym_float" | "as_sym_bool":
            return _symbol(content, value)
        case "as_sym_ints" | "as_sym_floats":
            return [_symbol(item, value) for item in content]
        case "as_scalar_type":
            return widened(DTYPES[content])
        case "as_memory_format":
            return _MEMORY_FORMATS.get(content)
    raise EngineError(
        "unsupported_operator",
        f"The program has an argument of a kind that is not read ({kind[:40]}).",
        hint="Export the model without control flow and custom objects, or upload ONNX.",
    )


def _symbol(content: Item, value: Callable[[str], Any]) -> Any:
    if "as_name" in content:
        return value(content["as_name"])
    ((_, number),) = content.items()
    return number
