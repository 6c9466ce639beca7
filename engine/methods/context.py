"""What a method that trains is given besides the network and its parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from engine.contract.errors import EngineError
from engine.contract.heads import Head
from engine.contract.json import JsonObject
from engine.contract.metric import Metric, catalogue
from engine.contract.params import TrainingFields
from engine.heads.find import Found
from engine.heads.scoring import Scores
from engine.methods.outputs import rows_at, same_outputs
from engine.methods.reading import found_by_answers
from engine.methods.step import StepContext
from engine.methods.training_records import TrainingRecords
from engine.networks import masks
from engine.networks.network import Network
from engine.tasks import task_of
from engine.training.batches import Examples, fingerprint, predict
from engine.training.checkpoints import Checkpoints, Place
from engine.training.loop import NO_HOOKS, Hooks, train
from engine.training.losses import Loss, accuracy_of, mean_loss, targets_loss
from engine.training.parallel.replicas import ALONE, Replicas
from engine.training.resume import History

_COMPARED_EXAMPLES, _FEW_COMPARED_EXAMPLES = 16, 2
_LARGE_NETWORK = 2**22
"""Parameters from which a network is compared on fewer examples."""
_SCORED_TOGETHER = 4096
"""Metrics take so many examples at a time, which bounds their memory."""


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
    outputs_of_file: Callable[[str], Sequence[Any] | None] = lambda split: None
    """What the baseline's file said about all examples of a split, as far as that was kept."""
    check_import: Callable[[], None] = lambda: None
    """Raises `import_mismatch` where the module that was built from the baseline's file computes something else."""
    _heads: list[Head] = field(default_factory=list)
    """Of the job; found when they are first asked for."""
    _unused_targets: dict[str, str] = field(default_factory=dict)
    _baseline_outputs: dict[str, Sequence[Any]] = field(default_factory=dict)
    _evaluated: dict[tuple[str, bytes], dict[str, float]] = field(default_factory=dict)
    """Figures by split and state of the network: the end of one step is the beginning of the next."""
    _trainings: int = 0
    _told: set[str] = field(default_factory=set)
    """What the user was warned of once for all steps."""

    def for_step(self, index: int, span: tuple[float, float], network: Network | None = None) -> Context:
        """The context of step `index`, which counts its own trainings."""
        return replace(super().for_step(index, span, network), _trainings=0)

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

    # What outputs mean

    def reading(self) -> tuple[Head, ...]:
        """How the network's outputs are read, the same in every process of the job."""
        if not self._heads:
            found = self.replicas.once(self._known)
            self._heads.extend(Head.model_validate(head) for head in found["heads"])
            self._unused_targets.update(found["unused"])
        return tuple(self._heads)

    def unused_targets(self) -> Mapping[str, str]:
        """Targets of the dataset that no output is compared with, and why, the same in every process of the job."""
        self.reading()
        return self._unused_targets

    def _known(self) -> JsonObject:
        """As JSON."""
        known = self.known()
        found = Found(known.heads, known.unused_targets) if known.heads else self._found()
        return {"heads": [head.model_dump() for head in found.heads], "unused": dict(found.unused)}

    def _found(self) -> Found:
        """From what the baseline answers to a few examples."""
        if self.data is None or not self.data.splits:
            return Found(())
        return found_by_answers(masks.fold(self.baseline.module), self.signature, self.data.splits, self.device)

    def quality(self, examples: Examples) -> Metric:
        """The metric of the trained outputs that people look at, of the first of them where there are several."""
        return catalogue()[task_of(self.trained_heads(examples)[0]).metrics[0]]

    def risk(self, examples: Examples) -> Metric:
        """The metric whose best value is the best network of a training run; `quality` where the task has no other."""
        task = task_of(self.trained_heads(examples)[0])
        return catalogue()[task.risk or task.metrics[0]]

    def loss(self, module: nn.Module, examples: Examples, label_smoothing: float = 0.0) -> Loss:
        """The loss of all outputs for which `examples` have targets. Puts the module on the device."""
        module.to(self.device)
        return targets_loss(self.trained_heads(examples), label_smoothing)

    def score(self, module: nn.Module, examples: Examples) -> dict[str, float]:
        """Metrics against the targets of `examples`, by `<metric>` and, of several outputs, `<metric>.<output>`; the same in every process."""
        heads = self.trained_heads(examples)
        figures: dict[str, float] = self.replicas.once(lambda: self._score(module, examples, heads))
        return figures

    def _score(self, module: nn.Module, examples: Examples, heads: Sequence[Head]) -> dict[str, float]:
        scores = Scores(heads, fidelity=False)
        answers = predict(module, examples, self.input_names, self.device, keep=self._read_inputs())
        scores.add(answers.outputs, answers.targets, answers.inputs)
        return scores.figures()

    def _read_inputs(self) -> tuple[str, ...]:
        return tuple({head.from_input: None for head in self.reading() if head.from_input is not None})

    # Training and evaluation

    def train(
        self,
        network: Network | nn.Module,
        params: TrainingFields,
        *,
        loss: Loss | None = None,
        hooks: Hooks = NO_HOOKS,
        split: str = "train",
        examples: Examples | None = None,
        validation: Examples | None = None,
        seed: int | None = None,
        start_iteration: int = 0,
        report: bool = True,
        save: bool = True,
    ) -> History:
        """Train a module in place on a split, by default on its targets; emits `train.loss` and, with a validation split, its metrics.

        Two runs with the same explicit `seed` see the same examples in the same order. The run is saved in the job's checkpoints, and
        what another attempt did of it is not done again; a method that saves more than the run itself says `save=False`. `examples` are
        trained on in the place of a split's, and early stopping then looks at the examples of `validation`. A training beside the one that the step is about (a baseline, a trial) is not part of the
        step's series and report: `report=False` leaves its progress only.
        """
        module = network if isinstance(network, nn.Module) else network.module
        if loss is None:
            loss = self.loss(module, self.labelled(split), params.label_smoothing)
        if examples is None:
            examples, validation = self.to_train_on(params, split)
        heads = self.trained_heads(examples)
        records = TrainingRecords(self, reported=report, start_iteration=start_iteration)

        def validate(module: nn.Module) -> dict[str, float]:
            return self._validate(module, loss, validation if params.early_stopping is not None else None, report=report)

        place = self.place() if save else None
        saved = place.load() if place is not None and report else None
        for record in saved.info["epochs"] if saved else ():
            records.add(record)
        if params.precision == "mixed" and self.device.type == "cpu" and not self._told:
            self._told.add("mixed")
            self.warn("mixed_precision_on_cpu", "precision: mixed was computed on a CPU, where it is mostly slower than float32.")
        history = train(
            module,
            examples,
            params,
            loss=loss,
            names=self.input_names,
            device=self.device,
            seed=self.new_seed() if seed is None else seed,
            hooks=replace(
                hooks,
                on_step=(*hooks.on_step, records.on_step),
                on_epoch=(*hooks.on_epoch, *((records.on_epoch,) if report else ())),
                validate=validate,
                share_right=accuracy_of(heads),
            ),
            start_iteration=start_iteration,
            place=place,
            replicas=self.replicas,
            heads=heads,
        )
        if report and history.best_epoch is not None:
            self.report("best_epoch", history.best_epoch)
            self.log(f"Early stopping kept the state after epoch {history.best_epoch}.")
        return history

    def without_masks(self, module: nn.Module) -> nn.Module:
        """A plain copy on the device for a method that trains or cuts whatever is there; the user is told where pruned weights come back."""
        if masks.held(module):
            self.warn(
                "zeros_lost",
                "An earlier step holds weights at zero, and this method holds none: they come back as it trains. Prune after it.",
            )
        return masks.fold(module).to(self.device)

    def to_train_on(self, params: TrainingFields, split: str = "train") -> tuple[Examples, Examples | None]:
        """The examples of a training, and those that it is stopped by, which are not among them; None without early stopping."""
        if params.early_stopping is None or self.data is None or split != "train":
            return self.split(split), None
        self.split("train")
        return self.data.train(seed=self.seed), self.data.validation(seed=self.seed)

    def _validate(self, module: nn.Module, loss: Loss, stopped_by: Examples | None, *, report: bool) -> dict[str, float]:
        """Figures of validation examples, as far as there are any and somebody wants them."""
        figures: dict[str, float] = {}
        stored = self.data is not None and "validation" in self.data.splits
        if stored and (report or stopped_by is not None):
            figures |= self.evaluate(module, "validation")
        if stopped_by is not None:
            if not stored and self.trained_heads(stopped_by):
                figures |= {f"validation.{name}": value for name, value in self.score(module, stopped_by).items()}
            figures["validation.loss"] = self.replicas.once(lambda: mean_loss(module, stopped_by, loss, self.input_names, self.device))
        return figures

    def place(self) -> Place | None:
        """Where the next training of this step is saved."""
        self._trainings += 1
        return None if self.checkpoints is None else Place(self.checkpoints, self.step_index, self._trainings)

    def finished(self) -> None:
        """Checkpoint what the step has trained."""
        if self.checkpoints is not None:
            self.checkpoints.write()

    def evaluate(self, network: Network | nn.Module, split: str) -> dict[str, float]:
        """Metrics by `<split>.<metric>`: those of the outputs' tasks where there are targets, fidelity to the baseline in any case."""
        module = network if isinstance(network, nn.Module) else network.module
        if self.replicas is not ALONE:
            self.reading()  # asked of all processes, and not inside of what the first one does alone
        figures: dict[str, float] = self.replicas.once(lambda: self._evaluate(module, split))
        return figures

    def _evaluate(self, module: nn.Module, split: str) -> dict[str, float]:
        state = (split, fingerprint(module))
        if state not in self._evaluated:
            same = state[1] == fingerprint(self.baseline.module)
            # First of all: meanwhile the job may still be measuring the baseline, whose outputs are then waited for.
            own = None if same else self._predict(module, split, self.input_names)
            if split not in self._baseline_outputs:
                self._baseline_outputs[split] = self._outputs_of_baseline(split)
            expected = self._baseline_outputs[split]
            outputs = expected if own is None else own
            scores = Scores(self.reading())
            examples = self.split(split)
            for start in range(0, examples.count, _SCORED_TOGETHER):
                places = np.arange(start, min(start + _SCORED_TOGETHER, examples.count))
                inputs = examples.batch(places)[0] if self._read_inputs() else {}
                ours, theirs = ([rows_at(part, places, examples.count) for part in parts] for parts in (outputs, expected))
                scores.add(ours, examples.targets_at(places), inputs, theirs)
            self._evaluated[state] = {f"{split}.{name}": value for name, value in scores.figures().items()}
        return dict(self._evaluated[state])

    def _outputs_of_baseline(self, split: str) -> Sequence[Any]:
        """Those of the uploaded file, where the module that was built from it says the same about a few examples; else the module's."""
        module, stored = masks.plain(self.baseline.module, self.device), self.outputs_of_file(split)
        names = tuple(tensor.name for tensor in self.baseline.signature.inputs)
        if stored is not None:
            examples = self.split(split)
            large = sum(item.numel() for item in module.parameters()) >= _LARGE_NETWORK
            indices = np.arange(min(_FEW_COMPARED_EXAMPLES if large else _COMPARED_EXAMPLES, examples.count))
            few = predict(module, examples, names, self.device, indices=indices)
            if all(same_outputs(kept[: len(own)], own) for kept, own in zip(stored, few.outputs, strict=True)):
                return stored
        self.check_import()
        return self._predict(module, split, names)

    def _predict(self, module: nn.Module, split: str, names: Sequence[str]) -> Sequence[Any]:
        return predict(module.to(self.device), self.split(split), names, self.device).outputs

    def measured(self, module: nn.Module) -> dict[str, float]:
        """Figures of a module on the evaluation split; nothing where there is none."""
        there = self.data is not None and self.evaluation_split in self.data.splits
        return self.evaluate(module, self.evaluation_split) if there else {}

    def stage(self, name: str, module: nn.Module) -> dict[str, float]:
        """Measure a stage of the step (`before`, `pruned`, `tuned` …) on the evaluation split, if there is one, and report it."""
        figures = self.measured(module)
        self.reported.setdefault("stages", []).append({"stage": name, **figures})
        self.metrics |= figures
        return figures
