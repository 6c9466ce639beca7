"""Hybrid reinforcement learning of routes (SkipNet, section 3.3), and what routes a network takes.

The cost of an example is J = E[L - α/N · Σᵢ Rᵢ], where skipping block i of N earns Rᵢ = (1 - gᵢ)·Cᵢ. Its gradient is that of the loss
through the blocks that ran, and Σᵢ ∇log p(gᵢ|x) · (β·L - α/N · Σ_{j≥i} Rⱼ - b): a decision is paid for what comes after it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from engine.contract.errors import EngineError
from engine.formats.onnx.counting import multiplications, on_meta
from engine.methods.dynamic.routing.blocks import Inputs
from engine.methods.dynamic.routing.network import SkippingNetwork
from engine.methods.dynamic.spec_skip import SkipRouting
from engine.training.across import batch_sum
from engine.training.batches import Batch, Examples, Outputs, as_list, batches
from engine.training.loop import Hooks, Moment
from engine.training.losses import Loss

_TINY = 1e-6


@dataclass
class Reinforcement:
    """The loss of hybrid reinforcement learning, and alpha's rise."""

    module: SkippingNetwork
    loss: Loss
    """Mean prediction loss of a batch."""
    params: SkipRouting
    alpha: float
    costs: Tensor
    """Cᵢ of every block, 1 in the mean."""
    share: Tensor = field(default_factory=lambda: torch.ones(()))
    """Of alpha, up to now."""

    def __call__(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Its gradient is the hybrid one. In evaluation it is J itself."""
        probabilities, taken = self.module.last()
        taken = taken.to(probabilities.dtype)
        with torch.no_grad():
            earned = (1 - taken) * self.costs.to(taken) * (float(self.share) * self.alpha / len(self.costs))
            if not self.module.training:
                return self.loss(outputs, batch) - earned.sum(1).mean()
            paid = self.params.loss_weight * each_example(self.loss, outputs, batch)[:, None]
            # What comes after decision i, itself included: its own reward and those behind it.
            price = paid - earned.flip(1).cumsum(1).flip(1)
            if self.params.baseline == "batch_mean":
                price = without_mean_of_others(price)
        policy = policy_term(probabilities, taken, price) - self.params.exploration * self.alpha * entropy_term(probabilities)
        return self.loss(outputs, batch) + self.params.policy_weight * policy

    def hooks(self) -> Hooks:
        """Raise alpha after every step."""

        def rise(moment: Moment) -> None:
            over = self.params.anneal * moment.iterations
            self.share.fill_(1.0 if over == 0 else min(1.0, moment.iteration / over))

        self.share.fill_(0.0 if self.params.anneal else 1.0)
        return Hooks(on_step=(rise,), memory={"share": self.share})


def policy_term(probabilities: Tensor, taken: Tensor, price: Tensor) -> Tensor:
    """A number whose gradient is the mean over examples of Σᵢ price · ∇log p(taken); all three are (N, blocks)."""
    safe = probabilities.clamp(_TINY, 1 - _TINY)
    chances = taken * safe.log() + (1 - taken) * (1 - safe).log()
    return (chances * price.detach()).sum(1).mean()


def entropy_term(probabilities: Tensor) -> Tensor:
    """The mean entropy of a decision, in nats; (N, blocks)."""
    safe = probabilities.clamp(_TINY, 1 - _TINY)
    return -(safe * safe.log() + (1 - safe) * (1 - safe).log()).mean()


def without_mean_of_others(price: Tensor) -> Tensor:
    """Every row less the mean of all other rows of the batch: (N, blocks) → the same; one row alone is left as it is."""
    count = float(batch_sum(price.new_ones(len(price))))
    if count < 2:
        return price
    return (price - batch_sum(price) / count) * (count / (count - 1))


def each_example(loss: Loss, outputs: Outputs, batch: Batch) -> Tensor:
    """The loss of every example by itself, (N,). Raises `routing_impossible` where one example has none, as with losses of pairs."""
    answers = [output.detach() for output in as_list(outputs)]
    values = []
    for place in range(len(batch.indices)):
        row = slice(place, place + 1)
        mixed = batch.mixed and replace(batch.mixed, stored=_rows(batch.mixed.stored, row), given=_rows(batch.mixed.given, row))
        given, stored = _rows(batch.given, row), _rows(batch.stored, row)
        single = replace(batch, indices=batch.indices[row], given=given, stored=stored, origin=None, mixed=mixed)
        values.append(loss([output[row] for output in answers], single))
    found = torch.stack(values)
    if not bool(torch.isfinite(found).all()):
        raise EngineError(
            "routing_impossible",
            "The loss of one example by itself is not a number here, and decisions are paid by it.",
            hint="skip_routing needs a task whose loss is a mean over examples, such as classification.",
        )
    return found


def _rows(arrays: Mapping[str, NDArray[Any]], row: slice) -> dict[str, NDArray[Any]]:
    return {name: array[row] if np.ndim(array) else array for name, array in arrays.items()}


@dataclass(frozen=True)
class Taken:
    """The routes of some examples, in their order."""

    probabilities: NDArray[np.floating]
    """(examples, blocks)."""
    keys: tuple[bytes, ...]
    """A digest of every example's inputs."""


@torch.no_grad()
def routes(module: SkippingNetwork, examples: Examples, names: Sequence[str], device: torch.device) -> Taken:
    """Probabilities that the blocks run, for all examples in order."""
    module.to(device).eval()
    found: list[NDArray[np.floating]] = []
    keys: list[bytes] = []
    for batch in batches(examples, names, 64, device):
        module(*batch.inputs)
        found.append(module.last()[0].cpu().numpy())
        keys += _keys(batch.inputs)
    module.forget()
    return Taken(np.concatenate(found), tuple(keys))


class Controlled(nn.Module):
    """A network that takes given routes in place of its own, by the inputs of each example."""

    routes: Tensor

    def __init__(self, module: SkippingNetwork, routes: NDArray[np.bool_], keys: Sequence[bytes]) -> None:
        super().__init__()
        self.module = module
        self.register_buffer("routes", torch.from_numpy(np.ascontiguousarray(routes)))
        self._keys = tuple(keys)
        self._place = {key: place for place, key in enumerate(keys)}

    def along(self, routes: NDArray[np.bool_]) -> Controlled:
        """The same network with other routes for the same examples."""
        return Controlled(self.module, routes, self._keys)

    def forward(self, *inputs: Tensor) -> Any:
        """The outputs; every input has to be one of those that the routes are given for."""
        rows = self.routes[[self._place[key] for key in _keys(inputs)]]
        for number, decision in enumerate(self.module.decisions):
            decision.given = rows[:, number]
        try:
            return self.module(*inputs)
        finally:
            self.module.forget()


def _keys(inputs: Sequence[Tensor]) -> list[bytes]:
    arrays = [item.detach().cpu().contiguous().numpy() for item in inputs if item.ndim]
    return [hashlib.blake2b(b"".join(array[row].tobytes() for array in arrays)).digest() for row in range(len(arrays[0]))]


def macs_of_blocks(module: SkippingNetwork, inputs: Inputs) -> tuple[list[int], int, int]:
    """Multiply-accumulates of one example: of each branch, of all gates, and of everything else; nothing is computed."""
    network = on_meta(module.network).eval()  # one example has no batch statistics where its map is a single value
    inside = {name: place for place, route in enumerate(module.routes) for name in route.branch}
    branches, gates, rest = [0] * len(module.routes), 0, 0
    with torch.device("meta"), multiplications(network) as counter:

        class Counting(fx.Interpreter):
            def run_node(self, n: fx.Node) -> Any:
                nonlocal gates, rest
                before = counter.get_total_flops()
                result = super().run_node(n)
                own = int(counter.get_total_flops() - before) // 2
                if n.name in inside:
                    branches[inside[n.name]] += own
                elif str(n.target).startswith("gates."):
                    gates += own
                else:
                    rest += own
                return result

        Counting(network).run(*(item[:1].to("meta") for item in inputs))
    return branches, gates, rest
