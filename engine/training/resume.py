"""The state of a training run: what is saved of it, and how it goes on from there."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from engine.contract.errors import EngineError
from engine.training.checkpoints import Place


@dataclass
class History:
    """What a training run did: one record an epoch, with `train.loss`, `learning_rate` and whatever callbacks added."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    iterations: int = 0
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
        memory: dict[str, Tensor],
    ) -> None:
        """`memory` holds what callbacks remember; it is saved and filled again with the rest."""
        self._module, self._optimizer, self._device, self._place, self._memory = module, optimizer, device, place, memory
        self._started = time.monotonic()
        self._first = iteration
        self._finished = False
        self.iteration = iteration
        """Optimizer steps done, those before the run included."""
        self.loss_sum = torch.zeros((), device=device)
        """Over the examples of this epoch that were seen."""
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
            if name.startswith("memory."):
                self._recall(name.removeprefix("memory."), value)
        self.iteration, self.seen = int(saved.info["iteration"]), int(saved.info["seen"])
        self.history.epochs.extend(dict(record) for record in saved.info["epochs"])
        self._finished = saved.done
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
        torch.set_rng_state(tensors["random.cpu"])
        if self._device.type == "cuda" and "random.cuda" in tensors:  # it may have been saved on a CPU
            torch.cuda.set_rng_state(tensors["random.cuda"], self._device)

    def _recall(self, name: str, value: Tensor) -> None:
        if name in self._memory:
            self._memory[name].copy_(value)
        else:
            self._memory[name] = value

    def save_if_due(self) -> None:
        """Save the module with its masks, the optimizer, the random numbers and the place in the epoch."""
        if self._place is None or not self._place.is_due():
            return
        tensors = {f"module.{name}": value for name, value in self._module.state_dict().items()}
        for number, state in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{key}": value for key, value in state.items() if isinstance(value, Tensor)}
        tensors |= {"loss_sum": self.loss_sum, "random.cpu": torch.get_rng_state()}
        if self._device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self._device)
        self._save(tensors, done=False)

    def finish(self) -> History:
        """Save what the run came to, and return what it did."""
        seconds_before = self._place.seconds_before if self._place else 0.0
        self.history.seconds = time.monotonic() - self._started + seconds_before
        self.history.iterations = self.iteration - self._first
        if not self._finished:
            self._save({f"module.{name}": value for name, value in self._module.state_dict().items()}, done=True)
        return self.history

    def _save(self, tensors: dict[str, Tensor], *, done: bool) -> None:
        if self._place is not None:
            tensors |= {f"memory.{name}": value for name, value in self._memory.items()}
            info = {"iteration": self.iteration, "seen": self.seen, "epochs": self.history.epochs}
            self._place.save(tensors, info, done=done, seconds=time.monotonic() - self._started)
