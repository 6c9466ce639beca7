"""What networks are for, a file a task: its targets, how they fit the network, its training loss and its metrics.

A task is one module with a `TASK`. Nothing registers anything: `catalogue` walks the modules. They may import numpy at the top and torch
inside of functions only, as published files are scored in a process without torch.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from engine.contract.plugins import extended

if TYPE_CHECKING:
    from torch import Tensor

    from engine.contract.heads import Head
    from engine.contract.metadata import OutputMeaning
    from engine.outputs.evidence import Array, Column, Output

__path__ = extended(__path__, __name__)


class Task:
    """Base of all tasks; what it does here is right for outputs that are plain values."""

    name: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]] = ()
    """Measured where there are targets; the first is the one that people look at."""
    more: ClassVar[tuple[str, ...]] = ()
    """Measured where a spec names them."""
    risk: ClassVar[str | None] = None
    """Of `metrics`, that whose smallest value is the best network of a training run."""
    order: ClassVar[int] = 100
    """Where a model's metadata does not say the task, those with small numbers are tried first."""
    keeps_when_moved: ClassVar[bool] = False
    """Whether the targets of a whole picture stay right when it is mirrored, moved or cut."""
    joint: ClassVar[bool] = False
    """Whether it reads all outputs of the network together; such a task has to be declared."""

    def read(self, outputs: Sequence[Output], column: Column | None, declared: OutputMeaning | None) -> Head | str:
        """How the outputs (one, unless the task is joint) are read with these targets, or a sentence why they are not.

        Without a `column` and without a declaration, only plain evidence may make a head.
        """
        raise NotImplementedError

    def prepare(self, head: Head, targets: Mapping[str, Array], inputs: Mapping[str, Array]) -> Array | None:
        """The targets of some examples in the form that `loss` and metrics take, from the dataset's as they are stored; None without any.

        Inputs are at hand for tasks whose targets are made of them.
        """
        return None if head.target is None else targets.get(head.target)

    def loss(self, head: Head, outputs: Sequence[Tensor], target: Tensor, label_smoothing: float) -> Tensor:
        """Mean training loss of a batch. Imports torch."""
        from engine.outputs.losses import squared_error

        return squared_error(outputs[0], target)

    def soften(self, head: Head, outputs: Sequence[Tensor], temperature: float) -> Tensor:
        """What a teacher's outputs are to a student: probabilities at the temperature where classes are meant, or the values themselves."""
        from engine.outputs.losses import softened

        return softened(head, outputs[0], temperature)

    def match(self, head: Head, outputs: Sequence[Tensor], wanted: Tensor, temperature: float) -> Tensor:
        """Mean loss of a student that is to give what `soften` made of its teacher."""
        from engine.outputs.losses import unlike

        return unlike(head, outputs[0], wanted, temperature)


@functools.cache
def catalogue() -> Mapping[str, Task]:
    """Every task by name, in the order in which they are tried."""
    modules = [importlib.import_module(module.name) for module in pkgutil.iter_modules(__path__, "engine.tasks.")]
    tasks: list[Any] = [module.TASK for module in modules]
    return {task.name: task for task in sorted(tasks, key=lambda task: (task.order, task.name))}


def task_of(head: Head) -> Task:
    """The task that a head does."""
    return catalogue()[head.task]
