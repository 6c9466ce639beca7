"""One module that runs at several widths: shared weights, of which a narrower width reads the first units, and normalization of its own."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.contract.figures import Setting
from engine.structure.graph import ChannelGraph
from engine.structure.narrowing import Place, narrow

Units = Mapping[str, Tensor]
"""By group, the units that a width has."""


class Switchable(nn.Module):
    """The widest network, and for every narrower width a copy that reads slices of its weights.

    Args:
        graph: The graph of the widest network, whose module it is from now on.
        widths: Of every narrower width its units.
        own_statistics: A width normalizes with statistics of its own.
        own_scales: A width has scales and shifts of batch normalization of its own.
        own_biases: A width has biases of its own wherever channels are cut and none of their layers is normalized.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        widths: Sequence[Units],
        *,
        own_statistics: bool = True,
        own_scales: bool = True,
        own_biases: bool = False,
    ) -> None:
        super().__init__()
        self.widest = graph.module
        self.own_statistics, self.own_scales = own_statistics, own_scales
        self._biased = _biased(graph) if own_biases else set()
        self.order: Units = {}
        """By group, all units, the ones that stay longest first, where the widths were chosen so."""
        self.narrow = nn.ModuleList()
        self._places: list[list[Place]] = []
        for units in widths:
            self.add(graph, units)

    def add(self, graph: ChannelGraph, units: Units) -> int:
        """One more width; returns its number."""
        made, places = narrow(graph, units)
        self._places.append([place for place in places if not self._takes(place)])
        for place in self._places[-1]:
            if place.name in place.layer._parameters:
                place.layer._parameters[place.name] = None
        for layer in made.modules():
            own = [name for name, _ in layer.named_parameters(recurse=False)]
            for name in own:
                value = getattr(layer, name)
                layer._parameters[name] = nn.Parameter(value.detach().clone(), requires_grad=value.requires_grad)
            for name, value in list(layer.named_buffers(recurse=False)):
                layer._buffers[name] = value.detach().clone()
        self.narrow.append(made)
        return len(self.narrow)

    def keep(self, count: int) -> None:
        """Forget all widths but the first `count`."""
        self.narrow = self.narrow[: count - 1]
        del self._places[count - 1 :]

    def _takes(self, place: Place) -> bool:
        """Whether a narrow width has the tensor for itself."""
        if isinstance(place.layer, _BatchNorm):
            return self.own_statistics if place.name in place.layer._buffers else self.own_scales
        if place.name in place.layer._buffers:
            return True  # constants of the network: no training changes them
        return place.name == "bias" and place.source in self._biased

    @property
    def count(self) -> int:
        """How many widths there are."""
        return 1 + len(self.narrow)

    def at(self, number: int, *inputs: Tensor) -> Any:
        """The outputs at width `number`; 0 is the widest."""
        if number == 0:
            return self.widest(*inputs)
        body, places = self.narrow[number - 1], self._places[number - 1]
        buffers = [place for place in places if place.name in place.layer._buffers]
        for place in places:
            part = place.slices.of(place.whole)
            if place.name in place.layer._buffers:
                place.layer._buffers[place.name] = part.clone()
            else:
                place.layer.__dict__[place.name] = part
        try:
            return body(*inputs)
        finally:
            for place in places:
                if place.name not in place.layer._buffers:
                    place.layer.__dict__[place.name] = None
            if self.training:
                for place in buffers:
                    seen = place.layer._buffers[place.name]
                    assert seen is not None
                    place.source._buffers[place.name] = place.slices.put(place.whole, seen)

    def forward(self, *inputs: Tensor) -> Any:
        """The outputs at the widest."""
        return self.widest(*inputs)

    def alone(self, number: int) -> nn.Module:
        """Width `number` as a module of its own, with tensors of its own."""
        if number == 0:
            return copy.deepcopy(self.widest)
        body: nn.Module = copy.deepcopy(self.narrow[number - 1])
        paths = {layer: path for path, layer in self.narrow[number - 1].named_modules()}
        for place in self._places[number - 1]:
            layer, part = body.get_submodule(paths[place.layer]), place.slices.of(place.whole).detach().clone()
            layer.__dict__.pop(place.name, None)
            if place.name in place.layer._buffers:
                layer._buffers[place.name] = part
            else:
                layer._parameters[place.name] = nn.Parameter(part)
        body.train(self.training)
        return body

    def kept(self, number: int) -> set[tuple[int, ...]]:
        """Every set of places that width `number` keeps of a dimension of some tensor."""
        places = [] if number == 0 else self._places[number - 1]
        return {tuple(index.tolist()) for place in places for index in place.slices.kept.values()}


class AtWidth(nn.Module):
    """A switchable network at one width, whose own layers are those of that width alone."""

    def __init__(self, network: Switchable, number: int) -> None:
        super().__init__()
        self._network, self._number = [network], number
        self.body = network.widest if number == 0 else network.narrow[number - 1]

    def forward(self, *inputs: Tensor) -> Any:
        """The outputs at the width."""
        return self._network[0].at(self._number, *inputs)


def _biased(graph: ChannelGraph) -> set[nn.Module]:
    """Layers whose channels can be cut and that no batch normalization stands behind."""
    found: set[nn.Module] = set()
    for group in graph.groups:
        if not any(isinstance(part.layer, _BatchNorm) for part in group.parts):
            found |= {part.layer for part in group.parts if part.producing and isinstance(part.layer, nn.Module)}
    return found


def setting_of(width: float) -> Setting:
    """What a width is called wherever it is measured."""
    return Setting(name=f"width {width:g}", values={"width": width})
