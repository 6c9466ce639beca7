"""A network that has a graph of its own for each of its settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from numpy.typing import NDArray

from engine.contract.errors import EngineError
from engine.contract.figures import Setting
from engine.formats.onnx.one_file import pack
from engine.networks.network import Counts, Network, Shapes, Signature, T

if TYPE_CHECKING:
    from torch import nn


class SettingsNetwork:
    """Graphs of several settings, such as the widths of a slimmable network after quantization; published as one file."""

    one_file = True
    architecture = None

    def __init__(self, networks: Sequence[tuple[Setting, Network]]) -> None:
        self._networks = {setting.name: network for setting, network in networks}
        self.settings = tuple(setting for setting, _ in networks)
        self._first = networks[0][1]

    @property
    def signature(self) -> Signature:
        """That of all settings."""
        return self._first.signature

    @property
    def weights_type(self) -> str:
        """That of all settings."""
        return self._first.weights_type

    @property
    def batch_dependent(self) -> bool:
        """Whether any setting is."""
        return any(network.batch_dependent for network in self._networks.values())

    @property
    def input_dependent(self) -> bool:
        """Whether any setting is."""
        return any(network.input_dependent for network in self._networks.values())

    @property
    def module(self) -> nn.Module:
        """There is none for all of them. Raises `not_trainable`."""
        raise self._refusal()

    def at(self, setting: Setting) -> Network:
        """The graph of one setting."""
        return self._networks[setting.name]

    def with_module(self, module: nn.Module, **changes: Any) -> Network:
        """A module has no place here. Raises `not_trainable`."""
        raise self._refusal()

    def with_onnx(self, path: Path, *, module: nn.Module | None = None, batch_dependent: bool = False) -> Network:
        """One graph has no place here. Raises `not_trainable`."""
        raise self._refusal()

    def plain(self) -> Network:
        """Graphs have no masks."""
        return self

    def measure(self, *, on_file: Callable[[Path], T], on_module: Callable[[nn.Module], T]) -> T:
        """What is found on the first setting."""
        return self._first.measure(on_file=on_file, on_module=on_module)

    def file(self, path: Path) -> Path:
        """A fresh file of all settings."""
        self.write_onnx(path)
        return path

    def write_onnx(self, path: Path) -> None:
        """One file of all settings; what two of them have alike is stored once."""
        models = []
        for setting in self.settings:
            self.at(setting).write_onnx(path)
            models.append((setting, onnx.load(path)))
        onnx.save_model(pack(models, ()), str(path))

    def count(self, shapes: Shapes | None = None) -> Counts:
        """Of the first setting."""
        return self._first.count(shapes)

    def tensors(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """Those of the first setting."""
        return self._first.tensors()

    def _refusal(self) -> EngineError:
        names = ", ".join(setting.name for setting in self.settings)
        return EngineError("not_trainable", f"Each setting of this network ({names}) is a graph of its own.", hint="Put such a step last.")
