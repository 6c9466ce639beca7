"""What an operation makes of tensors without values, remembered: a network repeats its blocks, and each trial costs a third of a millisecond.

A result on the meta device depends on shapes, types and strides, and on what the operation was called with: on nothing else.
"""

import functools
from collections.abc import Callable
from types import BuiltinFunctionType
from typing import Any

import torch
from torch import nn
from torch.fx.node import map_aggregate

from engine.contract import limits
from engine.contract.errors import EngineError
from engine.formats.onnx.importer.values import Constant, Flow, Symbol

Key = tuple[Any, ...]
_MOST = 20_000
"""Results that are remembered."""
_SIMPLE = (int, float, str, bool, type(None), torch.dtype)


class Trials:
    """Results by operation and operands."""

    def __init__(self) -> None:
        self._results: dict[Key, Any] = {}

    def of(self, operation: Key | None, operands: Any, run: Callable[[], Any]) -> Any:
        """What `run` returns; not called again for the same operation (None: one that is not known well enough) and like operands."""
        key = None if operation is None else (*operation, *described(operands))
        try:
            if key is None or key not in self._results:
                result = run()
                if key is not None and len(self._results) < _MOST:
                    self._results[key] = result
                return result
            return self._results[key]
        except TypeError:  # an operand that cannot be a key; or the operation itself, which then says so again
            return run()


def described(operands: Any) -> Key:
    """Operands as parts of a key; tensors by what counts on the meta device."""
    found: list[Any] = []

    def add(item: Any) -> Any:
        found.append(
            (tuple(item.shape), item.dtype, item.stride(), item.device.type) if isinstance(item, torch.Tensor) else (type(item), item)
        )
        return item

    structure: list[Any] = []
    _outline(operands, structure)
    map_aggregate(operands, add)
    return (tuple(structure), *found)


def _outline(item: Any, into: list[Any]) -> None:
    """How operands are nested: the same leaves may stand in other lists."""
    if isinstance(item, tuple | list):
        into.append(len(item))
        for part in item:
            _outline(part, into)
    elif isinstance(item, dict):
        into.append(tuple(item))
        for part in item.values():
            _outline(part, into)
    else:
        into.append(-1)


def of_function(function: Callable[..., Any] | str) -> Key | None:
    """A key of a function that is always the same; None for one that was made on the way and may hold something."""
    return (function,) if isinstance(function, str | BuiltinFunctionType) else None


def of_layer(module: nn.Module) -> Key | None:
    """A key of a layer: its kind, its settings, and the shapes and types of what it holds; None where something else may count."""
    if not type(module).__module__.startswith("torch.nn.") or module._modules or module._forward_hooks or module._forward_pre_hooks:
        return None
    settings = []
    for name, value in vars(module).items():
        if not name.startswith("_"):
            plain = value if isinstance(value, tuple) else (value,)
            if not all(isinstance(part, _SIMPLE) for part in plain):
                return None
            settings.append((name, value))
    held = [
        (name, None if tensor is None else (tuple(tensor.shape), tensor.dtype))
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
    ]
    return (type(module), tuple(settings), tuple(held))


def alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether two layers of one kind hold the same numbers."""
    mine, theirs = ([*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)] for layer in (one, other))
    return len(mine) == len(theirs) and all(
        name == named and (tensor is held or torch.equal(tensor, held)) for (name, tensor), (named, held) in zip(mine, theirs, strict=True)
    )


def tried(module: nn.Module, twin: nn.Module | None, imagined: Any) -> Any:
    """A layer's result without values; with `twin` that of its copy on the meta device."""
    if twin is not None:
        return twin(*imagined)
    held = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return torch.func.functional_call(module, {name: torch.empty_like(tensor, device="meta") for name, tensor in held}, imagined)


def refuse_huge(run: Callable[..., Any], args: Any, kwargs: Any) -> None:
    """Find the size of a constant on the meta device before it is computed: a few bytes can ask for terabytes."""
    imagined: Any = map_aggregate((args, kwargs), functools.partial(probe, index=0))
    with torch.device("meta"):
        result = run(*imagined[0], **imagined[1])
    for tensor in result if isinstance(result, tuple) else [result]:
        refuse_large(tensor)


def refuse_large(tensor: torch.Tensor) -> None:
    """Raise `tensor_limit_exceeded` for a value that would be too large."""
    if tensor.numel() > limits.MAX_TENSOR_ELEMENTS:
        raise EngineError("tensor_limit_exceeded", f"A value has {tensor.numel()} elements, the limit is {limits.MAX_TENSOR_ELEMENTS}.")


def probe(item: Any, index: int) -> Any:
    """What an operand is for one of the imagined inputs."""
    if isinstance(item, Flow):
        return item.probes[index]
    if isinstance(item, Symbol):
        return item.values[index]
    return item.tensor.to("meta") if isinstance(item, Constant) else item
