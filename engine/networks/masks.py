"""Masks that hold weights at zero: their type, their place in a module, and the way back to a plain module.

A mask acts in the forward pass, as a parametrization of its weight: momentum, Adam's moments and weight decay act on the stored
value only and cannot revive a pruned weight.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class Density(NamedTuple):
    """How many weights of how many are kept; exact, because it counts."""

    kept_count: int
    total_count: int

    @property
    def value(self) -> float:
        """Share of the weights that is kept."""
        return self.kept_count / self.total_count if self.total_count else 1.0

    @property
    def sparsity(self) -> float:
        """Share of the weights that is zero."""
        return 1 - self.value

    def __add__(self, other: object) -> Density:
        if not isinstance(other, Density):
            return NotImplemented
        return Density(self.kept_count + other.kept_count, self.total_count + other.total_count)


@dataclass(frozen=True, eq=False)
class Mask:
    """Which entries of one weight are kept: boolean, of the weight's shape, only ever narrowed."""

    keep: Tensor

    def __post_init__(self) -> None:
        if self.keep.dtype != torch.bool:
            raise ValueError(f"a mask is boolean, not {self.keep.dtype}")

    @classmethod
    def full(cls, weight: Tensor) -> Mask:
        """The mask that keeps everything of `weight`."""
        return cls(torch.ones_like(weight, dtype=torch.bool))

    def narrowed(self, keep: Tensor) -> Mask:
        """The mask of `keep`. Raises ValueError where it has another shape or keeps what was pruned before."""
        if keep.shape != self.keep.shape:
            raise ValueError(f"a mask of shape {list(keep.shape)} does not fit a weight of shape {list(self.keep.shape)}")
        if bool((keep & ~self.keep).any()):
            raise ValueError("masks are nested: a pruned weight stays pruned")
        return Mask(keep)

    @property
    def density(self) -> Density:
        """Counts of kept and of all entries."""
        return Density(int(self.keep.sum()), self.keep.numel())

    def pack(self) -> bytes:
        """One bit an entry, in row-major order, the first entry in the highest bit."""
        return np.packbits(self.keep.cpu().numpy().reshape(-1)).tobytes()

    @classmethod
    def unpack(cls, data: bytes, shape: tuple[int, ...]) -> Mask:
        """The mask that `pack` wrote."""
        bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8), count=int(np.prod(shape)))
        return cls(torch.from_numpy(bits.astype(bool)).reshape(shape))


class MaskedWeight(nn.Module):
    """Parametrization w ↦ keep ? w : rest; gradients reach kept weights only. `rest` is zero unless weights are frozen elsewhere.

    It multiplies by zeros and ones of the weight's own type, which takes a quarter of the time of a choice between two values, forward
    and backward; the addition makes +0 of the -0 that negative weights leave.
    """

    factor: Tensor
    rest: Tensor | None

    def __init__(self, mask: Mask, weight: Tensor, rest: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("factor", mask.keep.to(weight))
        self.register_buffer("rest", None if rest is None else torch.where(mask.keep.to(rest.device), 0.0, rest.detach()))

    @property
    def mask(self) -> Mask:
        """The entries that are kept."""
        return Mask(self.factor != 0)

    def narrow(self, mask: Mask) -> None:
        """Keep no more than `mask`. Raises ValueError where that would bring something back."""
        self.factor.copy_(self.mask.narrowed(mask.keep.to(self.factor.device)).keep)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight that the layer sees."""
        return (weight * self.factor).add_(0.0 if self.rest is None else self.rest)


def hold(module: nn.Module, masks: Mapping[str, Mask], rests: Mapping[str, Tensor] | None = None) -> None:
    """Hold every masked entry of the named weights (`conv1.weight`) from now on, in place.

    A mask that is there already is narrowed; a weight shared by several layers is masked in all of them.
    """
    for name, mask in masks.items():
        for layer, key in sharers(module, stored(owner(module, name), name.rpartition(".")[2])):
            present = _parametrization(layer, key)
            if present is not None:
                present.narrow(mask)
            else:
                rest = None if rests is None else rests.get(name)
                parametrize.register_parametrization(layer, key, MaskedWeight(mask, stored(layer, key), rest))


def held(module: nn.Module) -> dict[str, Mask]:
    """The masks in place, by the name of their weight."""
    found = {}
    for path, layer in module.named_modules():
        for attribute in getattr(layer, "parametrizations", {}):
            parametrization = _parametrization(layer, attribute)
            if parametrization is not None:
                found[f"{path}.{attribute}" if path else attribute] = parametrization.mask
    return found


def fold(module: nn.Module) -> nn.Module:
    """A plain copy for export and measurement: every parametrized weight replaced by the value that the layer sees.

    Layers that share a weight, and see the same of it, still share it.
    """
    module = copy.deepcopy(module, {id(item): item for item in _behind(module)})
    made: dict[object, list[nn.Parameter]] = {}
    for layer in list(module.modules()):
        if parametrize.is_parametrized(layer):
            _make_plain(layer, made)
    return module


def plain(module: nn.Module, device: torch.device) -> nn.Module:
    """The module itself where no weight of it is parametrized and it stands on the device, else a plain copy there. Only to be read."""
    on_device = all(tensor.device == device for tensor in (*module.parameters(), *module.buffers()))
    if on_device and not any(parametrize.is_parametrized(layer) for layer in module.modules()):
        return module
    return fold(module).to(device)


def weights_of(layers: Mapping[str, nn.Module]) -> list[str]:
    """Names of the weights of the named layers, each weight once: one that several of them share goes by the first of these."""
    names: dict[nn.Parameter, str] = {}
    for name, layer in layers.items():
        names.setdefault(stored(layer), f"{name}.weight" if name else "weight")
    return list(names.values())


def sharers(module: nn.Module, weight: nn.Parameter) -> list[tuple[nn.Module, str]]:
    """Every layer that uses the stored weight, and its name there."""
    return [
        (layer, name)
        for layer in module.modules()
        if not isinstance(layer, parametrize.ParametrizationList)
        for name in (*layer._parameters, *getattr(layer, "parametrizations", ()))
        if getattr(layer, name) is not None and stored(layer, name) is weight
    ]


def owner(module: nn.Module, name: str) -> nn.Module:
    """The layer of a weight, by the weight's name (`conv1.weight`)."""
    return module.get_submodule(name.rpartition(".")[0])


def stored(layer: nn.Module, attribute: str = "weight") -> nn.Parameter:
    """The parameter behind a weight, masked or not: the one that optimizers change and gradients reach."""
    masked = parametrize.is_parametrized(layer, attribute)
    value = layer.parametrizations[attribute].original if masked else getattr(layer, attribute)  # type: ignore[index, union-attr]  # torch takes attributes of a module for tensors and modules
    assert isinstance(value, nn.Parameter)
    return value


def _make_plain(layer: nn.Module, made: dict[object, list[nn.Parameter]]) -> None:
    """Undo parametrization by hand: `remove_parametrizations` edits the class, which a deep copy shares with its original.

    `made` holds the parameters that each stored weight has become so far.
    """
    values = {name: _shared(_seen(layer, name), made.setdefault(stored(layer, name), [])) for name in layer.parametrizations}  # type: ignore[union-attr]  # torch takes attributes of a module for tensors and modules
    layer.__class__ = type(layer).__bases__[0]
    del layer._modules["parametrizations"]
    others = dict(layer._parameters)
    layer._parameters.clear()
    for name, value in values.items():
        layer.register_parameter(name, value)
    layer._parameters.update(others)


def _behind(module: nn.Module) -> list[Tensor]:
    """What stands behind parametrized weights and nowhere else: a plain copy does without it."""
    layers = [layer for layer in module.modules() if not isinstance(layer, parametrize.ParametrizationList)]
    used = {id(item) for layer in layers for item in (*layer._parameters.values(), *layer._buffers.values())}
    behind = [part for layer in layers for part in getattr(layer, "parametrizations", {}).values()]
    return [item for part in behind for item in (*part.parameters(), *part.buffers()) if id(item) not in used]


def _seen(layer: nn.Module, name: str) -> Tensor:
    """A parametrized weight as the layer sees it, in memory of its own."""
    value: Tensor = getattr(layer, name).detach()
    same = value.untyped_storage().data_ptr() == stored(layer, name).untyped_storage().data_ptr()
    return value.clone() if same else value


def _shared(value: Tensor, made: list[nn.Parameter]) -> nn.Parameter:
    found = next((parameter for parameter in made if torch.equal(parameter, value)), None)
    if found is None:
        found = nn.Parameter(value)
        made.append(found)
    return found


def _parametrization(layer: nn.Module, attribute: str) -> MaskedWeight | None:
    if not parametrize.is_parametrized(layer, attribute):
        return None
    stack = layer.parametrizations[attribute]  # type: ignore[index]  # torch takes attributes of a module for tensors and modules
    return next((item for item in stack if isinstance(item, MaskedWeight)), None)
