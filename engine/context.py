"""What a method that trains is given besides the network and its parameters."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from engine import masks
from engine.checkpoints import Checkpoints, Place
from engine.errors import EngineError
from engine.logits import Batch, ClassHead, Examples, Prediction, fingerprint, predict
from engine.measuring.evaluation import fidelity_metrics, label_metrics
from engine.network import Network
from engine.parallel.replicas import ALONE, Replicas
from engine.params import TrainingFields
from engine.step import StepContext
from engine.training import NO_HOOKS, Hooks, Loss, Moment, classification_loss, train
from engine.training_state import History

_PROGRESS_SECONDS = 0.2
_MOST_RECORDS = 1000
"""Epochs in a report; of a longer training every other one is dropped, again and again."""


@dataclass(kw_only=True)
class Context(StepContext):
    """Training, evaluation and further models, on top of what every step is given."""

    device: torch.device
    load_teacher: Callable[[str], Network] | None = None
    """Reads another uploaded model by its id."""
    checkpoints: Checkpoints | None = None
    """Where trainings are saved, for another attempt."""
    replicas: Replicas = ALONE
    """The processes of this job. What decides by a measurement asks `replicas.once`, so that all of them go the same way."""
    _baseline_outputs: dict[str, list[Any]] = field(default_factory=dict)
    _evaluated: dict[tuple[str, bytes], dict[str, float]] = field(default_factory=dict)
    """Figures by split and state of the network: the end of one step is the beginning of the next."""
    _trainings: int = 0

    def for_step(self, index: int, span: tuple[float, float]) -> Context:
        """The context of step `index`, which counts its own trainings."""
        return replace(super().for_step(index, span), _trainings=0)

    def generator(self) -> torch.Generator:
        """A fresh, seeded torch generator on the CPU."""
        return torch.Generator().manual_seed(self.new_seed())

    def teacher(self, name: str) -> Network:
        """`baseline`, or another uploaded model by its id."""
        if name == "baseline":
            return self.baseline
        if self.load_teacher is None:
            raise EngineError("model_not_found", f"The teacher {name} is not part of this job.", category="internal")
        return self.load_teacher(name)

    def probe(self, module: nn.Module, examples: Examples) -> ClassHead:
        """How `module` says class scores, seen on a few examples; checks that the labels fit."""
        module.to(self.device)
        count = min(examples.count, 32)
        head = ClassHead.probe(module, Batch.of(examples, np.arange(count), self.input_names, self.device))
        if examples.labels is not None and examples.count and int(examples.labels.max()) >= head.classes_count:
            raise EngineError(
                "shape_mismatch",
                f"The dataset has the label {int(examples.labels.max())}, but the model gives only {head.classes_count} class scores.",
                hint="Labels count from 0 to classes - 1.",
            )
        return head

    # Training and evaluation

    def train(
        self,
        network: Network | nn.Module,
        params: TrainingFields,
        *,
        loss: Loss | None = None,
        hooks: Hooks = NO_HOOKS,
        split: str = "train",
        seed: int | None = None,
        start_iteration: int = 0,
    ) -> History:
        """Train a module in place on a split, by default on its labels; emits `train.loss` and, with a validation split, its metrics.

        Two runs with the same explicit `seed` see the same examples in the same order. The run is saved in the job's checkpoints, and
        what another attempt did of it is not done again.
        """
        module = network.module if isinstance(network, Network) else network
        if loss is None:
            loss = classification_loss(self.probe(module, self.labelled(split)), params.label_smoothing)
        examples = self.split(split)
        epochs_before = len(self.reported.setdefault("training", []))
        clock = time.monotonic()

        def on_step(moment: Moment) -> None:
            nonlocal clock
            if time.monotonic() - clock > _PROGRESS_SECONDS or moment.iteration == moment.iterations:
                clock = time.monotonic()
                self.progress(moment.iteration / moment.iterations, f"epoch {moment.epoch}, step {moment.iteration}/{moment.iterations}")

        def on_epoch(moment: Moment, record: dict[str, float]) -> None:
            if self.data is not None and "validation" in self.data.splits:
                record |= self.evaluate(moment.module, "validation")
            remember(record)

        def remember(record: dict[str, float]) -> None:
            records = self.reported["training"]
            records.append(dict(record))
            if len(records) > _MOST_RECORDS:
                del records[1:-1:2]
            for name, value in record.items():
                if name != "epoch":
                    self.metric(name, value, step=epochs_before + int(record["epoch"]))

        place = self.place()
        saved = None if place is None else place.load()
        for record in saved.info["epochs"] if saved else ():
            remember(record)
        return train(
            module,
            examples,
            params,
            loss=loss,
            names=self.input_names,
            device=self.device,
            seed=self.new_seed() if seed is None else seed,
            hooks=replace(hooks, on_step=(*hooks.on_step, on_step), on_epoch=(*hooks.on_epoch, on_epoch)),
            start_iteration=start_iteration,
            place=place,
            replicas=self.replicas,
        )

    def place(self) -> Place | None:
        """Where the next training of this step is saved."""
        self._trainings += 1
        return None if self.checkpoints is None else Place(self.checkpoints, self.step_index, self._trainings)

    def finished(self) -> None:
        """Checkpoint what the step has trained."""
        if self.checkpoints is not None:
            self.checkpoints.write()

    def evaluate(self, network: Network | nn.Module, split: str) -> dict[str, float]:
        """Metrics `<split>.<name>`: `top1` and `cross_entropy` with labels, fidelity to the baseline in any case."""
        module = network.module if isinstance(network, Network) else network
        figures: dict[str, float] = self.replicas.once(lambda: self._evaluate(module, split))
        return figures

    def _evaluate(self, module: nn.Module, split: str) -> dict[str, float]:
        state = (split, fingerprint(module))
        if state not in self._evaluated:
            answers = self._predict(module, split)
            figures = {} if answers.labels is None else label_metrics(answers.outputs, answers.labels)
            if split not in self._baseline_outputs:
                same = state[1] == fingerprint(self.baseline.module)
                self._baseline_outputs[split] = (answers if same else self._predict(masks.fold(self.baseline.module), split)).outputs
            figures |= fidelity_metrics(self._baseline_outputs[split], answers.outputs)
            self._evaluated[state] = {f"{split}.{name}": value for name, value in figures.items()}
        return dict(self._evaluated[state])

    def _predict(self, module: nn.Module, split: str) -> Prediction:
        return predict(module.to(self.device), self.split(split), self.input_names, self.device)

    def stage(self, name: str, module: nn.Module) -> dict[str, float]:
        """Measure a stage of the step (`before`, `pruned`, `tuned` …) on the evaluation split, if there is one, and report it."""
        figures: dict[str, float] = {}
        if self.data is not None and self.evaluation_split in self.data.splits:
            figures = self.evaluate(module, self.evaluation_split)
        self.reported.setdefault("stages", []).append({"stage": name, **figures})
        self.metrics |= figures
        return figures
