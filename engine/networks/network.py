"""A network in memory: what every step takes and returns, whether it is a trainable module, an ONNX graph, or both.

The two kinds stand in `engine.formats.onnx.networks`. Nobody asks which of them a network is: what differs between them is a method
here, and `measure` is given both ways to look at it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from engine.contract.figures import Setting

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

T = TypeVar("T")
Shapes = Mapping[str, Sequence[int]]
"""Shape of one example, without its batch, by the name of the input."""
UNNAMED = (Setting(),)
"""The settings of a network that runs in one way only."""
OPEN_SIZES = (64, 128, 224, 512, 1024, 256, 32, 16, 8, 4, 2, 1)
"""Tried one after the other for dimensions that a signature leaves open, until the network runs."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and type of one input or output; `None` in the shape is a dimension left open, the first one the batch."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"
    value: float | None = None
    """Of an input that a step added and that no dataset has: what stands in all of it wherever the network is run on the dataset."""


@dataclass(frozen=True)
class Signature:
    """What goes in and what comes out."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def batch_axis(self, tensor: TensorSpec) -> int | None:
        """Which dimension of an input counts examples; None where it has none for them.

        The first, also where all inputs fix it: it is the batch of the file's example. Of an input that fixes its first dimension alone (a
        recurrent state, whose layers come first) the first open one.
        """
        first = {item.shape[0] for item in self.inputs if item.shape}
        if not tensor.shape or tensor.shape[0] is None or len(first) == 1:
            return 0 if tensor.shape else None
        return tensor.shape.index(None) if None in tensor.shape else None

    def to_json(self) -> dict[str, list[dict[str, Any]]]:
        """The signature as JSON types, as it stands in an inspection."""
        return {
            side: [{name: item for name, item in asdict(tensor).items() if name != "value" or item is not None} for tensor in tensors]
            for side, tensors in (("inputs", self.inputs), ("outputs", self.outputs))
        }

    @classmethod
    def from_json(cls, document: Mapping[str, list[dict[str, Any]]]) -> Signature:
        """The signature that `to_json` wrote."""
        sides = (
            tuple(TensorSpec(t["name"], tuple(t["shape"]), t["dtype"], t.get("value")) for t in document[side])
            for side in ("inputs", "outputs")
        )
        return cls(*sides)


@dataclass(frozen=True)
class Counts:
    """How large a network is; what cannot be counted is None."""

    params_count: int | None
    nonzero_params_count: int | None
    macs_count: float | None
    """A whole number, or a mean over inputs."""


class Network(Protocol):
    """One state of the network on its way through the steps; immutable from the outside. A step returns a new one."""

    @property
    def signature(self) -> Signature:
        """What goes in and what comes out; a step may change it."""

    @property
    def settings(self) -> tuple[Setting, ...]:
        """The ways in which it runs, each of which is published and measured; one without a name in the ordinary case."""

    @property
    def one_file(self) -> bool:
        """Whether one ONNX file holds all of several settings: it runs as the first, and `modelpress.runtime.subnets` cuts the others out."""

    @property
    def weights_type(self) -> str:
        """Type in which a file stores the weights, `float32` or `float16`; a module trains in float32 all the same."""

    @property
    def batch_dependent(self) -> bool:
        """Whether its outputs for an example depend on the others in its batch, so that it is scored in the batches it is timed with."""

    @property
    def input_dependent(self) -> bool:
        """Whether it computes more for one input than for another, so that speed and MACs are means over real inputs."""

    @property
    def module(self) -> nn.Module:
        """The trainable module. Raises `not_trainable` or `unsupported_operator` where there is none."""

    @property
    def architecture(self) -> Any:
        """The builtin architecture that the network was made as, as `metadata.architecture` states it; None where it is none."""

    def at(self, setting: Setting) -> Network:
        """This network with one of its settings, as a network that has no other."""

    def with_module(
        self,
        module: nn.Module,
        *,
        signature: Signature | None = None,
        settings: tuple[Setting, ...] | None = None,
        select: Callable[[nn.Module, Setting], nn.Module] | None = None,
        parts: Callable[[nn.Module], Collection[tuple[int, ...]]] | None = None,
    ) -> Network:
        """A network around a changed module, with the same signature and settings where no others are given.

        `select` makes of the module, and one of several settings, a module of its own that runs so. With `parts`, which says what places of
        a dimension of the first setting's tensors the others may keep, all of them are published as one file.
        """

    def with_onnx(self, path: Path, *, module: nn.Module | None = None, batch_dependent: bool = False) -> Network:
        """The same signature around an ONNX file that holds what the network computes from now on; `module` is its trainable form."""

    def plain(self) -> Network:
        """The network without the masks and parametrizations that hold it during training, on the CPU, and rounded to `weights_type`; what is published."""

    def measure(self, *, on_file: Callable[[Path], T], on_module: Callable[[nn.Module], T]) -> T:
        """What is found on the thing that this network really is: on its ONNX file, or else on its module in memory."""

    def file(self, path: Path) -> Path:
        """An ONNX file of the network: the one that it is, or a fresh one at `path`. Raises `export_failed`."""

    def write_onnx(self, path: Path) -> None:
        """Write the network with its only setting, or `one_file` with all of them, as one ONNX file. Raises `export_failed`."""

    def count(self, shapes: Shapes | None = None) -> Counts:
        """Parameters and multiply-accumulates for one example; `shapes` are for dimensions that the signature leaves open."""

    def tensors(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """Every weight and constant by name, masks folded in; tied ones under each of their names."""
