"""A network with several settings, each of which is an ONNX graph of its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from engine.contract.errors import EngineError
from engine.contract.figures import Setting
from engine.networks.network import Counts, Network, Shapes, Signature, T

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn


class SeveralGraphs:
    """What became of every setting of a network; asked as a whole, it answers as the first of them."""

    architecture = None
    weights_type = "float32"
    one_file = False

    def __init__(self, members: Sequence[tuple[Setting, Network]]) -> None:
        self._members = tuple(members)
        self.settings = tuple(setting for setting, _ in self._members)
        self._first = self._members[0][1]

    @property
    def signature(self) -> Signature:
        """That of the first setting; they all have the same."""
        return self._first.signature

    @property
    def batch_dependent(self) -> bool:
        """Whether any setting is."""
        return any(member.batch_dependent for _, member in self._members)

    @property
    def input_dependent(self) -> bool:
        """Whether any setting is."""
        return any(member.input_dependent for _, member in self._members)

    @property
    def module(self) -> NoReturn:
        """There is none. Raises `not_trainable`."""
        raise EngineError("not_trainable", "A quantized graph has no trainable weights.", hint="Put quantization last.")

    def at(self, setting: Setting) -> Network:
        """The graph of one setting."""
        return next(member for own, member in self._members if own == setting)

    def with_module(
        self,
        module: nn.Module,
        *,
        signature: Signature | None = None,
        settings: tuple[Setting, ...] | None = None,
        select: Callable[[nn.Module, Setting], nn.Module] | None = None,
        parts: Callable[[nn.Module], Collection[tuple[int, ...]]] | None = None,
    ) -> Network:
        """A module in the place of the graphs, which are void."""
        return self._first.with_module(module, signature=signature, settings=settings or self.settings, select=select, parts=parts)

    def with_onnx(self, path: Path, *, module: nn.Module | None = None, batch_dependent: bool = False) -> Network:
        """Refused: one graph cannot stand for several. Raises `not_trainable`."""
        raise EngineError(
            "not_trainable",
            f"This step makes one graph of a network with {len(self.settings)} settings ({', '.join(s.name for s in self.settings)}).",
            hint="Put the step that adds settings last.",
        )

    def plain(self) -> Network:
        """Graphs have no masks."""
        return self

    def measure(self, *, on_file: Callable[[Path], T], on_module: Callable[[nn.Module], T]) -> T:
        """What is found on the file of the first setting."""
        return self._first.measure(on_file=on_file, on_module=on_module)

    def file(self, path: Path) -> Path:
        """The file of the first setting."""
        return self._first.file(path)

    def write_onnx(self, path: Path) -> None:
        """The first setting."""
        self._first.write_onnx(path)

    def count(self, shapes: Shapes | None = None) -> Counts:
        """Of the first setting."""
        return self._first.count(shapes)

    def tensors(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """Those of the first setting under their names, those of the others behind the setting's."""
        for place, (setting, member) in enumerate(self._members):
            for name, array in member.tensors():
                yield (f"{setting.name}/{name}" if place else name), array
