"""Module paths for the rebuilt network: readable, unique, and safe to stand in generated source code."""

import ast
import keyword
import re

import onnx

_ROLES = {"weight", "bias", "kernel", "running_mean", "running_var", "gamma", "beta", "moving_mean", "moving_variance", "w", "b", "r"}
_OPERATION = re.compile(r"^(ReadVariableOp\w*|(Conv\w*|DepthwiseConv\w*|MatMul|BiasAdd|Fused\w*)(_\d+)?|resource|read|Gemm|kernel\d*)$")
_GENERATED = re.compile(
    r"^(_?val_\d+|_v_\d+|onnx::.*|/.*|.*_output_\d+|const\w*|Constant\w*|\d+|scalar\w*|.*/Const(_\d+)?:?\d*|const_fold_opt\w*)$"
)


def is_readable(name: str) -> bool:
    """Whether a person named this tensor; exporters call their temporaries `val_3`, `onnx::Conv_12`, `/fc/Constant_output_0`."""
    return not _GENERATED.match(name)


def module_path(node: onnx.NodeProto, tensors: list[str]) -> str | None:
    """Where the layer stood in the original network: from its tensors' names, else what the exporter noted, else its own name."""
    for name in tensors:
        if is_readable(name):
            parts = [part for part in re.split(r"[./]", name.split(":")[0]) if part]
            if len(parts) > 1 and parts[-1].lower() in _ROLES:
                parts = parts[:-1]
                return ".".join(parts)
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
    return safe if safe.isidentifier() and not keyword.iskeyword(safe) else f"{fallback}_{safe}"


class Names:
    """Hands out paths: each is new, and none lies inside of a layer that was handed out before."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._inner: set[str] = set()

    def claim(self, wanted: str | None, fallback: str) -> str:
        """A free path like `wanted`, made of `[A-Za-z0-9_]` parts only; a number is added where it was taken."""
        parts = [re.sub(r"\W", "_", part, flags=re.ASCII)[:64] for part in (wanted or "").split(".")][:16]
        from torch import fx

        parts = [f"{part}_" if hasattr(fx.GraphModule, part) or part == "training" else part for part in parts if part] or [fallback]
        if len(parts) == 1 and parts[0][0].isdigit():
            parts[0] = f"layer_{parts[0]}"
        path = base = ".".join(parts)
        number = 1
        while not self._free(path):
            path = f"{base}_{number}"
            number += 1
        self._taken.add(path)
        self._inner.update(_parents(path))
        return path

    def _free(self, path: str) -> bool:
        return path not in self._taken and path not in self._inner and self._taken.isdisjoint(_parents(path))


def _parents(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]
