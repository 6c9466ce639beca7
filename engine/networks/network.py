"""A network in memory: a trainable module, an ONNX graph, or both of them saying the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.contract.errors import EngineError
from engine.contract.figures import Setting

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and type of one input or output; `None` in the shape is a dimension left open, the first one the batch."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class Signature:
    """What goes in and what comes out."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def to_json(self) -> dict[str, list[dict[str, Any]]]:
        """The signature as JSON types, as it stands in an inspection."""
        return {side: [asdict(tensor) for tensor in getattr(self, side)] for side in ("inputs", "outputs")}

    @classmethod
    def from_json(cls, document: Mapping[str, list[dict[str, Any]]]) -> Signature:
        """The signature that `to_json` wrote."""
        sides = (tuple(TensorSpec(t["name"], tuple(t["shape"]), t["dtype"]) for t in document[side]) for side in ("inputs", "outputs"))
        return cls(*sides)


class Network:
    """One state of the network on its way through the steps; immutable from the outside.

    It is born from a file: an ONNX graph whose module is built on first use (so that post-training quantization works on graphs
    with operators that cannot be trained), or a module made of a builtin architecture. A step returns a new `Network`.
    """

    def __init__(
        self,
        signature: Signature,
        *,
        module: nn.Module | None = None,
        build_module: Callable[[], nn.Module] | None = None,
        onnx_path: Path | None = None,
        quantized: bool = False,
        batch_dependent: bool = False,
        weights_type: str = "float32",
        settings: tuple[Setting, ...] = (Setting(),),
    ) -> None:
        self.signature = signature
        self.settings = settings
        """The ways in which it runs, each of which is published and measured; one without a name in the ordinary case."""
        self.onnx_path = onnx_path
        """A file that says exactly what this network computes, or None where it has to be exported first."""
        self.quantized = quantized
        self.batch_dependent = batch_dependent
        """Whether what it says about an example depends on the others in its batch, so that it is scored in the batches it is timed with."""
        self.weights_type = weights_type
        """Type in which a file stores the weights, `float32` or `float16`; a module trains in float32 all the same."""
        self._module = module
        self._build_module = build_module

    @property
    def module(self) -> nn.Module:
        """The trainable module. Raises `unsupported_operator` where the graph cannot be turned into one."""
        if self._module is None:
            if self._build_module is None:
                raise EngineError("not_trainable", "A quantized graph has no trainable weights.", hint="Put quantization last.")
            self._module = self._build_module()
        return self._module

    def at(self, setting: Setting) -> Network:
        """This network with one of its settings, as a network that has no other."""
        assert setting in self.settings
        return self

    def with_module(self, module: nn.Module) -> Network:
        """The same signature around a changed module; any ONNX file of the old state is void."""
        return Network(self.signature, module=module, weights_type=self.weights_type)

    def with_onnx(self, path: Path, *, quantized: bool, batch_dependent: bool = False) -> Network:
        """The same signature around a new ONNX file that has no trainable form."""
        return Network(self.signature, onnx_path=path, quantized=quantized, batch_dependent=batch_dependent)
