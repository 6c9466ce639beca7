"""The state of a training run: what is saved of it, and how it goes on from there."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from engine.contract.errors import EngineError
from engine.training.batches import Batch, Outputs
from engine.training.checkpoints import Info, Place
from engine.training.parallel.replicas import Share


@dataclass
class History:
    """What a training run did: one record an epoch, with `train.loss`, `learning_rate` and whatever callbacks added."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    iterations: int = 0
    best_epoch: int | None = None
    """Whose state was kept, where early stopping chose one."""
    seconds: float = 0.0


class Run:
    """A training run under way, saved at `place` where there is one."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        *,
        place: Place | None,
        iteration: int,
        memories: Mapping[str, dict[str, Tensor]],
    ) -> None:
        """`memories` hold what is remembered beside the module, by group (`memory`: that of callbacks); they are saved and filled again."""
        self._module, self._optimizer, self._device, self._place, self._memories = module, optimizer, device, place, memories
        self._started = time.monotonic()
        self._first = iteration
        self.finished = False
        """Whether another attempt ran it to its end."""
        self.iteration = iteration
        """Optimizer steps done, those before the run included."""
        self.loss_sum = torch.zeros((), device=device)
        """Over the examples of this epoch that were seen."""
        self.right_sum = torch.zeros((), device=device)
        """Share of right answers times examples, over those."""
        self.seen = 0
        self.history = History()

    def restore(self) -> None:
        """Put what was saved in place. Raises `checkpoint_invalid` where it is of another network."""
        saved = None if self._place is None else self._place.load()
        if saved is None:
            return
        tensors = saved.tensors()
        try:
            self._module.load_state_dict({name[7:]: value for name, value in tensors.items() if name.startswith("module.")})
        except RuntimeError as error:
            message = f"The checkpoint is of another network: {str(error)[:300]}"
            raise EngineError("checkpoint_invalid", message, category="internal") from error
        for name, value in tensors.items():
            group, _, key = name.partition(".")
            if group in self._memories:
                _recall(self._memories[group], key, value)
        self.iteration, self.seen = int(saved.info["iteration"]), int(saved.info["seen"])
        self.history.epochs.extend(dict(record) for record in saved.info["epochs"])
        self.finished, self.history.best_epoch = saved.done, saved.info.get("best_epoch")
        if saved.done:
            return
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                number, key = name.removeprefix("optimizer.").split(".", 1)
                states.setdefault(int(number), {})[key] = value
        self._optimizer.load_state_dict({"state": states, "param_groups": self._optimizer.state_dict()["param_groups"]})
        for parameter, moments in self._optimizer.state.items():
            # The fused optimizer walks through memory: moments have to lie as their weight does, which may be channels last.
            for key, value in moments.items():
                if value.shape == parameter.shape:
                    moments[key] = torch.empty_like(parameter, requires_grad=False).copy_(value)
        self.loss_sum.copy_(tensors["loss_sum"])
        self.right_sum.copy_(tensors["right_sum"])
        torch.set_rng_state(tensors["random.cpu"])
        if self._device.type == "cuda" and "random.cuda" in tensors:  # it may have been saved on a CPU
            torch.cuda.set_rng_state(tensors["random.cuda"], self._device)

    def count_right(self, share_right: Callable[[Outputs, Batch], Tensor] | None, outputs: Outputs, batch: Batch, share: Share) -> None:
        """Count the right answers to a batch, of which this process may have computed a part."""
        if share_right is not None:
            with torch.no_grad():
                self.right_sum += share.mean(share_right(outputs, batch)) * share.batch_count

    def save_if_due(self) -> None:
        """Save the module with its masks, the optimizer, the random numbers and the place in the epoch."""
        if self._place is None or not self._place.is_due():
            return
        tensors = {f"module.{name}": value for name, value in self._module.state_dict().items()}
        for number, state in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{key}": value for key, value in state.items() if isinstance(value, Tensor)}
        tensors |= {"loss_sum": self.loss_sum, "right_sum": self.right_sum, "random.cpu": torch.get_rng_state()}
        if self._device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self._device)
        self._save(tensors, done=False)

    def finish(self) -> History:
        """Save what the run came to, drop its gradients, and return what it did."""
        self._optimizer.zero_grad(set_to_none=True)
        seconds_before = self._place.seconds_before if self._place else 0.0
        self.history.seconds = time.monotonic() - self._started + seconds_before
        self.history.iterations = self.iteration - self._first
        if not self.finished:
            self._save({f"module.{name}": value for name, value in self._module.state_dict().items()}, done=True)
            self.finished = True
        return self.history

    def _save(self, tensors: dict[str, Tensor], *, done: bool) -> None:
        if self._place is not None:
            tensors |= {
                f"{group}.{name}": value
                for group, memory in self._memories.items()
                for name, value in memory.items()
                if not done or group == "memory"
            }
            info: Info = {"iteration": self.iteration, "seen": self.seen, "epochs": self.history.epochs}
            info |= {} if self.history.best_epoch is None else {"best_epoch": self.history.best_epoch}
            self._place.save(tensors, info, done=done, seconds=time.monotonic() - self._started)


def _recall(memory: dict[str, Tensor], name: str, value: Tensor) -> None:
    if name in memory:
        memory[name].copy_(value)
    else:
        memory[name] = value
