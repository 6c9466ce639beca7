"""This process among those that train one network together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # its list of names lacks this one
from torch.distributed.rendezvous import rendezvous

from engine.contract.errors import EngineError
from engine.training.batches import Indices
from engine.training.parallel.lost import lost
from engine.training.parallel.whole_batch import WholeBatch, total_

_PATIENCE = timedelta(days=30)
"""How long a process waits for the first one, which measures and publishes meanwhile. One that died is noticed at once: its
connections close, and whoever started the processes ends them all."""


class Share:
    """What one process does of one batch: here all of it."""

    def __init__(self, indices: Indices) -> None:
        self.indices = indices
        """Examples that this process computes."""
        self.batch_count = len(indices)
        """Examples of the whole batch."""
        self.part = slice(0, len(indices))
        """Where they stand in the batch."""

    def forward(self) -> AbstractContextManager[object]:
        """Inside, the network and its loss may be computed."""
        return nullcontext()

    def backward(self, loss: Tensor, module: nn.Module) -> Tensor:
        """Leave the gradients of the whole batch's mean loss in `module`, and return that loss without its graph."""
        loss.backward()
        return loss.detach()

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the whole batch, from the means over the parts."""
        return value


class Replicas:
    """The processes of one job; here there is only this one."""

    rank = 0
    """Number of this process; the first one, 0, emits the events of all."""
    size = 1
    """How many there are."""
    device: torch.device | None = None
    """Where this process computes; None: where the job states."""

    def once(self, ask: Callable[[], Any]) -> Any:
        """The answer (JSON) of `ask` in the first process; it is not asked in the others, which wait for it."""
        return ask()

    def begin(self, module: nn.Module) -> None:
        """Start a training from the first process's parameters and buffers. Raises `replicas_diverged` where they differ in form."""

    def share(self, indices: Indices) -> Share:
        """What this process does of the batch that `indices` name."""
        return Share(indices)

    def same_gradients(self, module: nn.Module) -> None:
        """Give every process the first one's gradients."""


ALONE = Replicas()


class DistributedReplicas(Replicas):
    """Processes that `torch.distributed.run` started, connected by NCCL on GPUs and by gloo on CPUs."""

    def __init__(self, device: torch.device) -> None:
        """Meet the others; `device` is this process's own."""
        self.device = device
        with lost():
            store, self.rank, self.size = next(rendezvous("env://", timeout=_PATIENCE))
            store.set_timeout(_PATIENCE)
            gpu = device.type == "cuda"
            dist.init_process_group(
                "nccl" if gpu else "gloo",
                store=PrefixStore("group", store),
                rank=self.rank,
                world_size=self.size,
                timeout=_PATIENCE,
                device_id=device if gpu else None,
            )
        self._board = PrefixStore("once", store)
        self._asked = 0

    def once(self, ask: Callable[[], Any]) -> Any:
        """Asked in the first process, read from the common store in the others."""
        self._asked += 1
        key = str(self._asked)
        if self.rank == 0:
            answer = ask()
            with lost():
                self._board.set(key, json.dumps(answer))
            return answer
        with lost():
            return json.loads(self._board.get(key))

    def begin(self, module: nn.Module) -> None:
        """Broadcast every parameter and buffer."""
        state = module.state_dict()
        form = hashlib.sha256(repr([(name, tuple(t.shape), str(t.dtype)) for name, t in state.items()]).encode()).hexdigest()
        if self.once(lambda: form) != form:
            raise EngineError(
                "replicas_diverged",
                "The processes of this job came to networks of different form.",
                hint="Run the job with devices: 1, and please report it.",
                category="internal",
            )
        for tensor in state.values():
            self._broadcast_(tensor.detach())

    def share(self, indices: Indices) -> Share:
        """A part of the batch, by the number of this process."""
        return _Part(indices, self.rank, self.size)

    def same_gradients(self, module: nn.Module) -> None:
        """Broadcast every gradient."""
        for parameter in module.parameters():
            if parameter.grad is not None:
                self._broadcast_(parameter.grad)

    def _broadcast_(self, tensor: Tensor) -> None:
        """As bytes: not every backend knows every type."""
        for dimension in range(tensor.ndim):
            if tensor.stride(dimension) == 0 and tensor.shape[dimension] > 1:  # one value, expanded
                tensor = tensor.narrow(dimension, 0, 1)
        if not tensor.numel():
            return
        data = tensor.reshape(-1).contiguous().view(torch.uint8)
        with lost():
            dist.broadcast(data, 0)
        if self.rank and data.data_ptr() != tensor.data_ptr():
            tensor.copy_(data.view(tensor.dtype).reshape(tensor.shape))


class _Part(Share):
    """A part of a batch. One with fewer examples than there are processes is computed whole by each of them."""

    def __init__(self, indices: Indices, rank: int, size: int) -> None:
        self._divided = len(indices) >= size
        self._count = len(indices)
        bounds = [len(indices) * number // size for number in range(size + 1)] if self._divided else [0, len(indices)] * size
        self._start, self._stop = (bounds[rank], bounds[rank + 1]) if self._divided else (0, len(indices))
        super().__init__(np.asarray(indices)[self._start : self._stop])
        self.batch_count = self._count
        self.part = slice(self._start, self._stop)
        self._weight = len(self.indices) / self._count if self._divided else 1 / size
        """Of this part's mean loss in the mean over the whole batch."""

    @contextmanager
    def forward(self) -> Iterator[object]:
        """Inside, what looks across the batch sees all of it."""
        with WholeBatch(self._start, self._stop, self._count) if self._divided else nullcontext() as mode:
            yield mode

    def backward(self, loss: Tensor, module: nn.Module) -> Tensor:
        """Add up gradients and losses of the parts."""
        scaled = loss * self._weight
        scaled.backward()
        gradients: dict[torch.dtype, list[Tensor]] = {}
        for parameter in module.parameters():
            if parameter.grad is not None:
                gradients.setdefault(parameter.grad.dtype, []).append(parameter.grad)
        for group in gradients.values():
            flat = total_(torch.cat([gradient.reshape(-1) for gradient in group]))
            for gradient, summed in zip(group, torch.split(flat, [gradient.numel() for gradient in group]), strict=True):
                gradient.copy_(summed.view(gradient.shape))
        return total_(scaled.detach().clone())

    def mean(self, value: Tensor) -> Tensor:
        """Weighted by the sizes of the parts."""
        return total_(value.detach() * self._weight)
