"""Module paths for the rebuilt network: readable, unique, and safe to stand in generated source code. Importing it loads no torch."""

from __future__ import annotations

import ast
import functools
import itertools
import keyword
import re
from collections.abc import Callable, Sequence

import onnx

_ROLES = {"weight", "bias", "kernel", "running_mean", "running_var", "gamma", "beta", "moving_mean", "moving_variance", "w", "b", "r"}
_SUFFIX = re.compile(r"_(weight|bias|kernel|gamma|beta)$")
_RECURRENT = re.compile(r"^(weight|bias)_(ih|hh)_l\d+(_reverse)?$")
_FORM = re.compile(r"_(transposed|wide)$")
"""What this project's own writer adds to the name of a weight that it stores in another shape than the layer has it."""
_OPERATION = re.compile(r"^(ReadVariableOp\w*|(Conv\w*|DepthwiseConv\w*|MatMul|BiasAdd|Fused\w*)(_\d+)?|resource|read|Gemm|kernel\d*)$")
_GENERATED = re.compile(
    r"^(_?val_\d+|_v_\d+|onnx::.*|/.*|.*_output_\d+|const\w*|Constant\w*|\d+|scalar\w*|.*/Const(_\d+)?:?\d*"
    r"|_?(add|alias|arange|cat|clone|cos|cumsum|detach|div|exp|expand|full|full_like|getitem|index|lift_fresh_copy|linspace|log|logical_not"
    r"|masked_fill|mean|mul|neg|ones|ones_like|permute|pow|repeat|reshape|rsqrt|select|sin|slice|sqrt|squeeze|stack|sub|sum|tile|to|to_copy"
    r"|transpose|tril|triu|unsqueeze|view|where|zeros|zeros_like)(_\d+)?)$"
)
"""Names that exporters make up: `val_3`, `onnx::Conv_12`, `/fc/Constant_output_0`, and those of operators computed at export."""


def is_readable(name: str) -> bool:
    """Whether a person named this tensor, so that it is a weight and not a value that an exporter made up."""
    return not _GENERATED.match(name)


def module_path(node: onnx.NodeProto, tensors: Sequence[str], *, shared: bool = False) -> str | None:
    """Where the layer stood in the original network: from its tensors' names, else what the exporter noted, else its own name.

    Names of `shared` tensors may be another layer's, since exporters store equal tensors once: then they come last.
    """
    if shared:
        return _noted_path(node) or _legacy_path(node) or module_path(node, tensors)
    for name in tensors:
        if is_readable(name):
            parts = [part for part in re.split(r"[./]", _FORM.sub("", name.split(":")[0])) if part]
            if len(parts) > 1 and (parts[-1].lower() in _ROLES or _RECURRENT.match(parts[-1])):
                return ".".join(parts[:-1])
            if len(parts) > 1 and _SUFFIX.search(parts[-1]):
                return ".".join([*parts[:-1], _SUFFIX.sub("", parts[-1])])
            while len(parts) > 1 and _OPERATION.match(parts[-1]):
                parts = parts[:-1]
            return ".".join(parts)
    return _noted_path(node) or _legacy_path(node)


def _noted_path(node: onnx.NodeProto) -> str | None:
    """The path in the metadata of torch's current exporter: `['', 'head', 'head.0', 'linear_1']`, the last one being the call."""
    noted = {item.key: item.value for item in node.metadata_props}.get("pkg.torch.onnx.name_scopes")
    try:
        scopes = ast.literal_eval(noted) if noted else []
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if isinstance(scopes, list) and len(scopes) > 1 and all(isinstance(scope, str) for scope in scopes):
        return scopes[-2] or None
    return None


def _legacy_path(node: onnx.NodeProto) -> str | None:
    """The path in a node name of torch's legacy exporter: `/layer1/layer1.0/conv1/Conv` is `layer1.0.conv1`."""
    if not node.name.startswith("/"):
        return None
    path = ""
    for part in node.name.strip("/").split("/")[:-1]:
        head = path.rsplit(".", 1)[-1]
        path = part if not path else (f"{path[: -len(head)]}{part}" if part.startswith(head + ".") else f"{path}.{part}")
    return path or None


def identifier(name: str, fallback: str) -> str:
    """`name` as a Python identifier of ASCII letters, digits and underscores."""
    safe = re.sub(r"\W", "_", name, flags=re.ASCII)[:64]
    return safe if safe.isidentifier() and not keyword.iskeyword(safe) and safe != "self" else f"{fallback}_{safe}"


class Names:
    """Hands out paths: each is new, and none lies inside of a layer that was handed out before."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._inner: set[str] = set()
        self._tried: dict[str, int] = {}
        """How far the numbers behind a path are used up: thousands of layers may want the same name."""

    def claim(self, wanted: str | None, fallback: str) -> str:
        """A free path like `wanted`, made of `[A-Za-z0-9_]` parts only; a number is added where it was taken."""
        parts = [re.sub(r"\W", "_", part, flags=re.ASCII)[:64] for part in (wanted or "").split(".")][:16]
        parts = [f"{part}_" if part in _reserved() else part for part in parts if part] or [fallback]
        if len(parts) == 1 and parts[0][0].isdigit():
            parts[0] = f"layer_{parts[0]}"
        around = ""
        for part in parts[:-1]:
            # A layer that was handed out cannot hold another one: its neighbour of another name does.
            around = _numbered(f"{around}{part}", lambda path: path in self._taken, {}) + "."
        path = _numbered(f"{around}{parts[-1]}", lambda path: path in self._taken or path in self._inner, self._tried)
        self._taken.add(path)
        self._inner.update(_parents(path))
        return path


def _numbered(path: str, is_taken: Callable[[str], bool], tried: dict[str, int]) -> str:
    """`path`, or the first of `path_1`, `path_2` … that is free; what was taken stays so, and is not asked for again."""
    if not is_taken(path):
        return path
    for number in itertools.count(tried.get(path, 0) + 1):
        if not is_taken(f"{path}_{number}"):
            tried[path] = number
            return f"{path}_{number}"
    raise AssertionError("numbers never end")


@functools.cache
def _reserved() -> frozenset[str]:
    """Names that a layer cannot have: a module's own attributes, and what Python keeps for itself."""
    from torch import fx

    return frozenset((*dir(fx.GraphModule), *keyword.kwlist, "self", "training"))


def _parents(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]
