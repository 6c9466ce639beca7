"""A module as a graph of layers and calls, where its code can be followed without values."""

from __future__ import annotations

from torch import fx, nn

from engine.formats.onnx.writer.layers import LAYERS


def followed(module: nn.Module) -> fx.GraphModule | None:
    """The module as a graph of the same layers; None where its code asks for values, or for the shapes of its inputs."""
    if isinstance(module, fx.GraphModule):
        return module
    try:
        return fx.GraphModule(module, _Tracer().trace(module))
    except Exception:
        return None  # Code of any kind is run on inputs that do not exist; the general exporter has other means.


class _Tracer(fx.Tracer):
    """Looks into every module but those that are written as they are."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module becomes one call."""
        return type(m) in LAYERS or super().is_leaf_module(m, module_qualified_name)
