"""What pruning is compared with: the small architecture trained from scratch, and random channels (Liu et al., 2019)."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from engine.contract.display import Table
from engine.contract.params import TrainingFields
from engine.methods.context import Context
from engine.methods.pruning.spec import StructuredPruning
from engine.networks.initialization import initialize
from engine.structure.channels import Inputs
from engine.structure.graph import ChannelGraph
from engine.structure.plan import Costs
from engine.training.loop import iterations_of

Rounds = Sequence[Mapping[str, int]]
"""For each round, how many units every group lost, by the group's name."""
Spent = dict[str, int | float]
"""What trainings took, by name."""
NOTHING: Spent = {"iterations": 0, "epochs": 0.0, "training_macs_count": 0, "training_seconds": 0.0}


def compare(original: nn.Module, pruned: nn.Module, params: StructuredPruning, context: Context, *, rounds: Rounds, inputs: Inputs) -> None:
    """Train the asked-for baselines and put what each one reached and spent into the step's report, beside the pruned network."""
    large = Costs(original, inputs).macs_count()
    small = Costs(pruned, inputs).macs_count()
    rows = []
    for name, _ in zip(params.baselines, context.rounds(len(params.baselines)), strict=True):
        context.log(f"Baseline {name}.")
        if name == "random":
            module, spent = _random(original, params, context, rounds=rounds, inputs=inputs)
        else:
            assert params.training is not None
            module = copy.deepcopy(pruned)
            initialize(module, "kaiming_normal", context.new_seed())
            spent = _train(module, params.training if name == "scratch_e" else lengthened(params.training, large / small), small, context)
        measured = context.data is not None and context.evaluation_split in context.data.splits
        reached = context.evaluate(module, context.evaluation_split) if measured else {}
        for key, value in reached.items():
            context.metric(f"{name}.{key}", value)
        rows.append({"baseline": name, **spent, **reached})
    context.report("baselines", {"macs_ratio": large / small, "rows": rows})
    context.show(Table.of("Baselines", "baseline", rows))


def lengthened(training: TrainingFields, factor: float) -> TrainingFields:
    """The same training, `factor` times as long: milestones are shares, so they move along."""
    length = "epochs" if training.epochs is not None else "iterations"
    return training.model_copy(update={length: int((getattr(training, length) or 0) * factor)})


def _random(original: nn.Module, params: StructuredPruning, context: Context, *, rounds: Rounds, inputs: Inputs) -> tuple[nn.Module, Spent]:
    """As many channels of every layer, chosen by chance, and the same tuning after each round."""
    module = copy.deepcopy(original)
    rng = context.rng()
    total: Spent = dict(NOTHING)
    for removed in rounds:
        graph = ChannelGraph(module, inputs, removed)
        for group in graph.groups:
            count = removed[group.name]
            if count:
                units = torch.from_numpy(rng.permutation(len(group.units))[:count])
                graph.remove(group, group.units[units].reshape(-1).tolist())
        if params.finetune is not None:
            spent = _train(module, params.finetune, Costs(module, inputs).macs_count(), context)
            total = {key: value + spent[key] for key, value in total.items()}
    return module, total


def _train(module: nn.Module, training: TrainingFields, macs: int, context: Context) -> Spent:
    """Train in place without a trace in the step's own series; returns what it took. A backward pass counts as two forward ones."""
    history = context.train(module, training, report=False)
    examples, _ = context.to_train_on(training)
    return spent(training, examples.count, macs, history.iterations) | {"training_seconds": history.seconds}


def spent(training: TrainingFields, examples_count: int, macs: int, iterations: int | None = None) -> Spent:
    """Length and cost of a training run of a network that takes `macs` operations for one example; of a whole one, or of `iterations`."""
    iterations = iterations_of(training, examples_count) if iterations is None else iterations
    epochs = iterations / math.ceil(examples_count / training.batch_size)
    return {"iterations": iterations, "epochs": epochs, "training_macs_count": round(3 * macs * epochs * examples_count)}
