"""The two kinds of network: a module that is written as ONNX, and an ONNX graph that may have a module beside it; each can become the other."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from engine.contract.errors import EngineError
from engine.contract.figures import Setting
from engine.formats.onnx.counting import count_module, count_onnx, count_weights
from engine.formats.onnx.executed import decides_by_input
from engine.formats.onnx.notes import has_notes, remove_notes
from engine.formats.onnx.one_file import pack
from engine.networks.network import UNNAMED, Counts, Network, Shapes, Signature, T
from modelpress.runtime.manifest import ArtifactError
from modelpress.runtime.subnets import open_settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from engine.networks.routed import RoutedModule

    Select = Callable[[nn.Module, Setting], nn.Module]
    Parts = Callable[[nn.Module], Collection[tuple[int, ...]]]

_WIDER = {"int4": np.int8, "int2": np.int8, "uint4": np.uint8, "uint2": np.uint8}
"""Types of less than a byte, which other formats do not have."""


class ModuleNetwork:
    """A network that is a module in memory."""

    batch_dependent = False

    def __init__(
        self,
        signature: Signature,
        module: nn.Module,
        *,
        settings: tuple[Setting, ...] = UNNAMED,
        select: Select | None = None,
        parts: Parts | None = None,
        weights_type: str = "float32",
        plain: bool = False,
    ) -> None:
        self.signature, self.settings, self.module, self.weights_type = signature, settings, module, weights_type
        self._select, self._parts, self._plain = select, parts, plain

    @property
    def one_file(self) -> bool:
        """Of several settings whose tensors are parts of the first one's."""
        return self._parts is not None and len(self.settings) > 1

    @property
    def input_dependent(self) -> bool:
        """Whether the module decides by its input."""
        routed = _routed(self.module)
        return routed is not None and routed.input_dependent

    @property
    def architecture(self) -> Any:
        """What the module was made as, if it is a builtin architecture."""
        return getattr(self.module, "architecture", None)

    def at(self, setting: Setting) -> Network:
        """One setting: the module that `select` makes of it, or the module itself where there is only one."""
        assert setting in self.settings
        if self._select is None or len(self.settings) == 1:
            return self
        return self._around(self._select(self.module, setting), settings=(setting,), plain=self._plain)

    def with_module(
        self,
        module: nn.Module,
        *,
        signature: Signature | None = None,
        settings: tuple[Setting, ...] | None = None,
        select: Select | None = None,
        parts: Parts | None = None,
    ) -> Network:
        """Another module in the place of this one."""
        return self._around(
            module,
            signature=signature or self.signature,
            settings=settings or self.settings,
            select=select or self._select,
            parts=parts if select else self._parts,
        )

    def with_onnx(self, path: Path, *, module: nn.Module | None = None, batch_dependent: bool = False) -> Network:
        """A graph in the place of the module."""
        return _graph(self, path, module, batch_dependent=batch_dependent)

    def plain(self) -> Network:
        """A folded copy; the network itself where it is one already."""
        if self._plain:
            return self
        from engine.formats.onnx.element_types import round_weights
        from engine.formats.onnx.export import folded

        module = folded(self.module)
        if self.weights_type == "float16":
            module = round_weights(module)
        return self._around(module, settings=self.settings, select=self._select, parts=self._parts, plain=True)

    def measure(self, *, on_file: Callable[[Path], T], on_module: Callable[[nn.Module], T]) -> T:
        """What is found on the module."""
        return on_module(self.module)

    def file(self, path: Path) -> Path:
        """A fresh file."""
        self.write_onnx(path)
        return path

    def write_onnx(self, path: Path) -> None:
        """Export the module: same names of inputs and outputs as the signature, first dimension open, no external data."""
        from engine.formats.onnx.export import export_onnx

        module, half = self.plain().module, self.weights_type == "float16"
        routed = _routed(module)
        if routed is not None:
            routed.write_onnx(self.signature, path, half=half)
        elif self._parts is None or not self.one_file:
            export_onnx(module, self.signature, path, half=half)
        else:
            plain, models = self.plain(), []
            for setting in self.settings:
                # Normalization that is folded into the weights would make them other weights in every setting.
                export_onnx(plain.at(setting).module, self.signature, path, half=half, keep_normalization=True)
                models.append((setting, onnx.load(path)))
            onnx.save_model(pack(models, self._parts(module)), str(path))

    def count(self, shapes: Shapes | None = None) -> Counts:
        """Counted on the module, which runs once without computing anything."""
        module = self.plain().module
        routed = _routed(module)
        if routed is not None and routed.input_dependent:
            return count_weights(module)
        return count_module(module, self.signature, shapes)

    def tensors(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """The state dict of the folded module; of several settings in one file, that of the first."""
        plain = self.plain()
        for name, tensor in (plain.at(self.settings[0]) if self.one_file else plain).module.state_dict().items():
            yield name, array_of(tensor)

    def _around(self, module: nn.Module, **changes: Any) -> Network:
        return ModuleNetwork(**{"signature": self.signature, "weights_type": self.weights_type, "module": module, **changes})


class GraphNetwork:
    """A network that is an ONNX file, which says exactly what it computes. The trainable module is built on first use, if it can be."""

    def __init__(
        self,
        signature: Signature,
        path: Path,
        *,
        build_module: Callable[[], nn.Module] | None = None,
        module: nn.Module | None = None,
        settings: tuple[Setting, ...] = UNNAMED,
        weights_type: str = "float32",
        batch_dependent: bool = False,
        input_dependent: bool | None = None,
    ) -> None:
        self.signature, self.settings, self.weights_type, self._path = signature, settings, weights_type, path
        self.batch_dependent = batch_dependent
        self._input_dependent = input_dependent
        self._build_module, self._module = build_module, module
        self._counts: dict[object, Counts] = {}

    @property
    def module(self) -> nn.Module:
        """The trainable form. Raises `not_trainable`, and the errors of the import."""
        if self._module is None:
            if self._build_module is None:
                raise EngineError("not_trainable", "A quantized graph has no trainable weights.", hint="Put quantization last.")
            self._module = self._build_module()
        return self._module

    @property
    def input_dependent(self) -> bool:
        """Whether the graph decides by its input."""
        if self._input_dependent is None:
            self._input_dependent = decides_by_input(onnx.load(self._path))
        return self._input_dependent

    @property
    def architecture(self) -> None:
        """A graph is no builtin architecture."""

    @property
    def one_file(self) -> bool:
        """A graph runs in one way."""
        return False

    def at(self, setting: Setting) -> Network:
        """The graph, which runs in one way."""
        assert setting in self.settings
        return self

    def with_module(
        self,
        module: nn.Module,
        *,
        signature: Signature | None = None,
        settings: tuple[Setting, ...] | None = None,
        select: Select | None = None,
        parts: Parts | None = None,
    ) -> Network:
        """A module in the place of the graph, which is void."""
        return ModuleNetwork(
            signature or self.signature,
            module,
            settings=settings or self.settings,
            select=select,
            parts=parts,
            weights_type=self.weights_type,
        )

    def with_onnx(self, path: Path, *, module: nn.Module | None = None, batch_dependent: bool = False) -> Network:
        """Another graph in the place of this one."""
        return _graph(self, path, module, batch_dependent=batch_dependent)

    def plain(self) -> Network:
        """The graph has no masks."""
        return self

    def measure(self, *, on_file: Callable[[Path], T], on_module: Callable[[nn.Module], T]) -> T:
        """What is found on the file."""
        return on_file(self._path)

    def file(self, path: Path) -> Path:
        """The file itself."""
        return self._path

    def write_onnx(self, path: Path) -> None:
        """Copy the file, but for the notes that its exporter made on the graph."""
        model = onnx.load(self._path)
        if has_notes(model):
            onnx.save_model(remove_notes(model), str(path))
        elif self._path.resolve() != path.resolve():
            shutil.copyfile(self._path, path)

    def count(self, shapes: Shapes | None = None) -> Counts:
        """Counted on the file, once for each set of shapes: a step and the publication of its result ask for the same."""
        key = None if shapes is None else tuple((name, tuple(shape)) for name, shape in sorted(shapes.items()))
        if key not in self._counts:
            self._counts[key] = count_onnx(self._path, shapes)
        return self._counts[key]

    def tensors(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """The constants of the graph: weights in any number of bits, scales and zero points."""
        for item in onnx.load(self._path).graph.initializer:
            array = numpy_helper.to_array(item)
            yield item.name, array.astype(_WIDER[array.dtype.name]) if array.dtype.name in _WIDER else array


def _routed(module: nn.Module) -> RoutedModule | None:
    from engine.networks.routed import RoutedModule

    return module if isinstance(module, RoutedModule) else None


def _graph(network: Network, path: Path, module: nn.Module | None, *, batch_dependent: bool) -> Network:
    if len(network.settings) > 1:
        raise EngineError(
            "not_trainable",
            f"This step makes one graph of a network with {len(network.settings)} settings ({', '.join(s.name for s in network.settings)}).",
            hint="Put the step that adds settings last.",
        )
    _forget_settings(path)
    return GraphNetwork(network.signature, path, module=module, settings=network.settings, batch_dependent=batch_dependent)


def _forget_settings(path: Path) -> None:
    """Take other settings, of which an uploaded file may have had some, out of a file whose graph was changed: they are not of this graph."""
    try:
        packed = open_settings(path)
    except ArtifactError:
        return
    content = b"".join(packed.cut(packed.settings[0]))
    del packed
    path.write_bytes(content)


def array_of(tensor: Tensor) -> NDArray[Any]:
    """The values of a tensor, also of types that NumPy has from an extension."""
    import torch

    kinds = {
        torch.bfloat16: TensorProto.BFLOAT16,
        torch.float8_e4m3fn: TensorProto.FLOAT8E4M3FN,
        torch.float8_e5m2: TensorProto.FLOAT8E5M2,
    }
    value = tensor.detach().cpu().contiguous()
    if value.dtype not in kinds:
        array: NDArray[Any] = value.numpy()
        return array
    plain = value.view(torch.int16 if value.element_size() == 2 else torch.uint8).numpy()
    return plain.view(onnx.helper.tensor_dtype_to_np_dtype(kinds[value.dtype]))
