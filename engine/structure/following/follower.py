"""Runs a network and follows the numbers of its channels through every operation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from engine.structure.following.records import Call, Families, Resized, Slices
from engine.structure.following.ties import Ties, essence, simplified, varying

_FACTORIES = frozenset((torch.arange, torch.empty, torch.full, torch.linspace, torch.ones, torch.scalar_tensor, torch.tensor, torch.zeros))

FIXED_SIZE = "they are combined with something whose size is fixed, such as an input of the network"
SINGLE = "it has no more than one channel, or one set of channels that can only go together"
ALONE = "one of them is taken out and used by itself"
CROSSED = "they are mixed with positions or with other channels in a way that no slice separates"
LARGEST_TABLE = 2**22
"""Elements of the largest bare parameter whose elements are numbered."""


Rule = Callable[["Follower", Call], None]
LayerRule = Callable[["Follower", nn.Module, Sequence[Any], Any], None]


class Follower(TorchFunctionMode):
    """While active, gives every value its families. What ties channels is told to `ties`; `settle` decides what had to wait."""

    def __init__(
        self, module: nn.Module, ties: Ties, rules: Mapping[str, Rule], layer_rules: Mapping[Any, LayerRule], making: Collection[str]
    ) -> None:
        super().__init__()
        self.module, self.ties = module, ties
        self.imagined = all(tensor.is_meta for tensor in (*module.parameters(), *module.buffers()))
        """The network stands on the meta device: only shapes are computed."""
        self.slices: list[Slices] = []
        self.resized: list[Resized] = []
        self.averaged: list[tuple[fx.Node, torch.Size, Families]] = []
        """Means over channels in a traced network, with what they are taken over."""
        self.together: list[Tensor] = []
        """Numbers of heads: they are tied because they meet in one product."""
        self.seen: list[Tensor] = []
        """Every family of every value."""
        self.node: fx.Node | None = None
        self._rules, self._layer_rules, self._making = rules, layer_rules, making
        self._inside = 0
        self._own: dict[int, tuple[Tensor, Families]] = {
            id(item): (item, ()) for item in (*module.parameters(), *module.buffers()) if _is_numbered(item)
        }
        self._numbered: set[int] = set()
        self._repeats: list[tuple[int, int]] = []
        self._waiting: list[Callable[[], None]] = []
        self._read: dict[tuple[int, bool, int], Tensor] = {}

    # Values

    def families(self, value: Any) -> Families:
        """Those of a value; parameters and buffers get numbers for all of their elements when they are first read."""
        if not isinstance(value, Tensor):
            return ()
        if id(value) in self._own and id(value) not in self._numbered:
            self._numbered.add(id(value))
            numbers = self.ties.new(*value.shape)
            self.seen.append(numbers)
            self._own[id(value)] = (value, (simplified(numbers),) if value.numel() > 1 else ())
        if id(value) in self._own:
            return self._own[id(value)][1]
        found: Families = getattr(value, "_families", ())
        return found

    def own(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Parameters and buffers that were read by themselves, and the numbers of their elements."""
        for value, families in self._own.values():
            for numbers in families:
                yield value, numbers

    def give(self, value: Any, families: Sequence[Tensor], reason: str = ALONE) -> None:
        """Say which numbers a value has. Those that do not change along any dimension stay: nothing would be left of the value."""
        found = [simplified(numbers) for numbers in families]
        for numbers in found:
            if not varying(numbers):
                self.ties.fix(numbers, reason)
        found = [numbers for numbers in found if varying(numbers)]
        if _collide(found):
            # Repetitions that are merged with channels are as many as they are.
            for item in found:
                if self.is_repeat(item):
                    self.ties.fix(item, CROSSED)
            found = [numbers for numbers in found if not self.is_repeat(numbers)]
        if _collide(found):
            for item in found:
                self.ties.fix(item, CROSSED)
            found = []
        self.seen += found
        if isinstance(value, Tensor):
            value._families = tuple(found)  # type: ignore[attr-defined]  # so that they go where the value goes

    def repeats(self, *shape: int) -> Tensor:
        """Numbers for repetitions of one thing: where they are in the way of channels, they stay."""
        numbers = self.ties.new(*shape)
        self._repeats.append((int(numbers.min()), int(numbers.max())))
        return numbers

    def is_repeat(self, numbers: Tensor) -> bool:
        """Whether these numbers are those of repetitions."""
        (core,) = essence(numbers)
        return any(low <= int(core.min()) and int(core.max()) <= high for low, high in self._repeats)

    def fix(self, value: Any, reason: str) -> None:
        """Keep every channel of a value, or of all values in a structure."""
        for item in tree_leaves(value):
            for numbers in self.families(item):
                self.ties.fix(numbers, reason)

    # Weights

    def aligned(self, numbers: Tensor, dimension: int) -> Tensor:
        """One number for each index of a dimension: what lies behind one another along the others is tied."""
        rows = numbers.movedim(dimension, -1)
        (rows,) = essence(rows.movedim(-1, 0))
        rows = rows.flatten(1).T if rows.dim() > 1 else rows[None]
        first = rows[0].contiguous()
        if len(rows) > 1:
            self.ties.tie(rows, first.expand(rows.shape), CROSSED)
        return first

    def reads(self, layer: Any, numbers: Tensor, *, outgoing: bool, dimension: int = 0, owner: nn.Module | None = None) -> None:
        """A dimension of a layer's weight belongs to these numbers; what it had to do with in earlier calls is tied to them."""
        key = (id(layer), outgoing, dimension)
        known = self._read.get(key)
        if known is None:
            self._read[key] = numbers
            self.slices.append(Slices(layer, outgoing, numbers, dimension, owner))
        else:
            self.ties.tie(known, numbers, FIXED_SIZE)

    def outputs_of(self, layer: nn.Module, count: int) -> Tensor:
        """The numbers of what a layer computes, the same in every call."""
        if (id(layer), True, 0) not in self._read:
            self.reads(layer, self.ties.new(count), outgoing=True)
            if count == 1:
                self.ties.fix(self._read[id(layer), True, 0], SINGLE)
        numbers = self._read[id(layer), True, 0]
        return numbers if count > 1 else torch.zeros_like(numbers)

    # Later

    def wait(self, decide: Callable[[], None]) -> None:
        """Decide once all that is certain is known."""
        self._waiting.append(decide)

    def settle(self) -> None:
        """Decide what waited, in its order."""
        for decide in self._waiting:
            decide()
        self._waiting = []

    def known(self, numbers: Tensor) -> Tensor:
        """The smallest numbers that these are tied to so far, simplified."""
        (core,) = essence(numbers)
        return simplified(self.ties.roots()[core].expand(numbers.shape))

    # Running

    def run(self, inputs: Sequence[Tensor]) -> Any:
        """The outputs of the network."""
        with ExitStack() as stack:
            for layer in self.module.modules():
                if isinstance(layer, tuple(self._layer_rules)):
                    stack.enter_context(_hooked(layer, self._enter, self._leave))
            stack.enter_context(torch.no_grad())
            stack.enter_context(self)
            if isinstance(self.module, fx.GraphModule):
                return _Nodes(self.module, self).run(*inputs)
            return self.module.forward(*inputs)

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        """Run an operation and follow it."""
        kwargs = kwargs or {}
        if self._inside:
            return func(*args, **kwargs)
        if self.imagined and func in _FACTORIES:
            kwargs = {"device": "meta"} | kwargs
        before = {id(item): self.families(item) for item in tree_leaves((args, kwargs)) if isinstance(item, Tensor)}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name == "__get__":
            name = getattr(getattr(func, "__self__", None), "__name__", "")
        name = name.partition(".")[0].strip("_")  # operators of exported programs have their overload behind a point
        if not any(before.values()) and name not in self._making:
            return result
        self._inside += 1
        try:
            call = Call(name, func, args, kwargs, result)
            try:
                self._rules.get(name, _unknown)(self, call)
            except Exception:  # A form of an operation that its rule does not expect: its channels stay.
                _unknown(self, call)
        finally:
            self._inside -= 1
        return result

    def _enter(self, layer: nn.Module, args: Any, kwargs: Any) -> None:
        self._inside += 1

    def _leave(self, layer: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        self._inside -= 1
        if self._inside:
            return
        self._inside += 1
        try:
            rule = next(rule for kind, rule in self._layer_rules.items() if isinstance(layer, kind))
            rule(self, layer, [*args, *kwargs.values()], result)
        finally:
            self._inside -= 1


class _Nodes(fx.Interpreter):
    """Runs a traced network, and says which node is running."""

    def __init__(self, module: fx.GraphModule, follower: Follower) -> None:
        super().__init__(module)
        self._follower = follower

    def run_node(self, n: fx.Node) -> Any:
        """One node."""
        self._follower.node = n
        return super().run_node(n)


def _unknown(follower: Follower, call: Call) -> None:
    made_tensors = any(isinstance(item, Tensor) for item in tree_leaves(call.result))
    if made_tensors or call.name in ("item", "tolist", "numpy", "float", "int", "index", "bool"):
        follower.fix((call.args, call.kwargs), f"{call.name} does something with them that cannot be followed")


def _collide(families: Sequence[Tensor]) -> bool:
    return any(varying(numbers) & varying(other) for place, numbers in enumerate(families) for other in families[:place])


def _is_numbered(value: Tensor) -> bool:
    return (value.is_floating_point() or value.dtype == torch.bool) and 0 < value.numel() <= LARGEST_TABLE


@contextmanager
def _hooked(layer: nn.Module, before: Callable[..., None], after: Callable[..., None]) -> Iterator[None]:
    hooks = [
        layer.register_forward_pre_hook(before, with_kwargs=True),
        layer.register_forward_hook(functools.partial(after), with_kwargs=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
