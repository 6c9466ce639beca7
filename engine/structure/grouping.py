"""From the numbers that channels were given while a network ran to the groups that can only go together, and the layers that stay whole."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from engine.networks.layers import PRUNABLE
from engine.structure.channels import ChannelGroup, Part
from engine.structure.following.follower import ALONE, CROSSED, SINGLE, Follower
from engine.structure.following.records import Slices
from engine.structure.following.ties import FIXED, essence, simplified, varying


class Grouping:
    """What was found in a network that a follower has followed.

    Args:
        follower: It knows what every value is numbered with, and what is tied; more of it is tied here.
        names: Those of the layers.
        only: Names of the groups that are asked for; by default all are found.
    """

    def __init__(self, follower: Follower, names: Mapping[nn.Module, str], only: Collection[str] | None) -> None:
        self.fixed: dict[str, str] = {}
        """Layers whose channels stay, with the reason; not those that make an output."""
        self._known: tuple[Tensor, Tensor] | None = None
        self._follower, self._ties = follower, follower.ties
        self._slices = [*follower.slices]
        self._separate()
        self.roots = self._ties.roots()
        """For every number the smallest one that it is tied to."""
        self._slices += self._bare()
        self.numbers: dict[str, Tensor] = {}
        """For each group the number of each unit."""
        self.groups = [group for group in self._groups(names) if only is None or group.name in only]
        self._tell_fixed(names)

    def _separate(self) -> None:
        """Tie until every channel is a slice of every value: of crossing dimensions the last one keeps its channels apart."""
        seen: dict[Any, Tensor] = {}
        for numbers in self._follower.seen:
            (core,) = essence(numbers)
            seen.setdefault((core.data_ptr(), core.shape, core.stride()), core)
        changed = True
        while changed:
            changed = False
            for core in seen.values():
                roots, alive = self._ties.roots(), self._alive()
                known = roots[core]
                known = simplified(torch.where(alive[known], known, FIXED))
                where = sorted(varying(known))
                if not where and bool(known.any()):
                    self._ties.fix(core, ALONE)
                    changed = True
                elif len(where) > 1:
                    first = core
                    for dimension in where[:-1]:
                        first = first.narrow(dimension, 0, 1)
                    self._ties.tie(core, first.expand(core.shape), CROSSED)
                    changed = True

    def _alive(self) -> Tensor:
        """For every number whether a layer computes channels that it is the smallest number of."""
        roots = self._ties.roots()
        if self._known is None or self._known[0] is not roots:
            alive = torch.zeros(len(roots), dtype=torch.bool)
            for item in self._follower.slices:
                if _computes(item):
                    alive[roots[item.numbers]] = True
            alive[FIXED] = False
            self._known = roots, alive
        return self._known[1]

    def _bare(self) -> Iterator[Slices]:
        """Slices of parameters and constants that stand by themselves, such as a table of positions."""
        for value, numbers in self._follower.own():
            known = self.roots[numbers]
            known = simplified(torch.where(self._alive()[known], known, FIXED))
            for dimension in varying(known):
                line = known.movedim(dimension, -1)
                yield Slices(value, outgoing=True, numbers=line.reshape(-1, line.shape[-1])[0], dimension=dimension)

    def _groups(self, names: Mapping[nn.Module, str]) -> list[ChannelGroup]:
        """Units that tie the same numbers of slices of the same layers, together."""
        signatures: dict[int, list[tuple[int, int]]] = {}
        for place, item in enumerate(self._slices):
            if isinstance(item.layer, nn.RNNBase):
                continue
            found, counts = torch.unique(self.roots[item.numbers], return_counts=True)
            for root, count in zip(found.tolist(), counts.tolist(), strict=True):
                if root != FIXED:
                    signatures.setdefault(root, []).append((place, count))
        alike: dict[tuple[tuple[int, int], ...], list[int]] = {}
        for root, signature in signatures.items():
            if any(_computes(self._slices[place]) for place, _ in signature):
                alike.setdefault(tuple(signature), []).append(root)
        groups: list[ChannelGroup] = []
        for ties, roots in sorted(alike.items(), key=lambda item: next(p for p, _ in item[0] if _computes(self._slices[p]))):
            producers = [self._slices[place] for place, _ in ties if _computes(self._slices[place])]
            makers = list(dict.fromkeys(names[_module(item)] for item in producers))
            if len(roots) < 2:
                self.fixed |= dict.fromkeys(makers, SINGLE)
                continue
            taken = {group.name for group in groups}
            name = next((maker for maker in makers if maker not in taken), f"{makers[0]}#{len(taken)}")
            groups.append(self._group(name, makers, ties, roots))
        return groups

    def _group(self, name: str, makers: Sequence[str], signature: Sequence[tuple[int, int]], roots: Sequence[int]) -> ChannelGroup:
        unit_of = torch.full((len(self.roots),), -1)
        unit_of[torch.tensor(roots)] = torch.arange(len(roots))
        placed = {place: _places(unit_of[self.roots[self._slices[place].numbers]], count) for place, count in signature}
        first = next(place for place, _ in signature if _computes(self._slices[place]))
        order = placed[first].min(1).values.argsort()
        placed = {place: rows[order] for place, rows in placed.items()}
        width = max(placed[place].shape[1] for place, _ in signature if _computes(self._slices[place]))
        rows = placed[first]
        units = (
            torch.argsort(torch.argsort(rows.flatten())).reshape(rows.shape)
            if rows.shape[1] == width
            else torch.arange(len(roots) * width).reshape(len(roots), width)
        )
        parts = []
        for place, _ in signature:
            item, indices = self._slices[place], placed[place]
            count = indices.shape[1]
            channels = units[:, torch.arange(count) * width // count]
            ascending = indices.flatten().argsort()
            given = indices.flatten()[ascending], channels.flatten()[ascending]
            parts.append(Part(item.layer, item.outgoing, *given, item.dimension, item.owner))
        self.numbers[name] = torch.tensor(roots)[order]
        together = {int(self.roots[number]) for item in self._follower.together for number in torch.unique(essence(item)[0])}
        return ChannelGroup(name, tuple(makers), units, tuple(parts), heads=bool(together & set(roots)))

    def _tell_fixed(self, names: Mapping[nn.Module, str]) -> None:
        cut = {name for group in self.groups for name in group.layers}
        for item in self._slices:
            name = names[_module(item)] if _computes(item) else None
            if name is not None and name not in self.fixed and name not in cut and not self.roots[item.numbers].any():
                reasons = self._ties.reasons(item.numbers)
                if reasons:
                    self.fixed[name] = "; ".join(reasons)
        self.fixed = {name: reason for name, reason in self.fixed.items() if name not in cut}


def _computes(item: Slices) -> bool:
    return item.outgoing and (isinstance(item.layer, PRUNABLE) or item.owner is not None)


def _module(item: Slices) -> Any:
    return item.layer if item.owner is None else item.owner


def _places(units: Tensor, count: int) -> Tensor:
    """For each unit, in a row, the places where its number stands, `count` of them."""
    found = (units >= 0).nonzero().flatten()
    return found[torch.argsort(units[found], stable=True)].reshape(-1, count)
