"""Early exits (Huang et al., 2018; BranchyNet): attach, train together, calibrate on validation examples, publish what really stops."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from engine.contract.errors import EngineError
from engine.contract.figures import Setting
from engine.contract.heads import Head
from engine.methods.context import Context
from engine.methods.dynamic.exits.answers import AllAnswers
from engine.methods.dynamic.exits.attaching import with_exits
from engine.methods.dynamic.exits.confidence import check_confident
from engine.methods.dynamic.exits.network import BudgetNetwork, ExitNetwork
from engine.methods.dynamic.exits.published import check_stages, publish_stages
from engine.methods.dynamic.exits.shown import BudgetRow, ExitRow, show
from engine.methods.dynamic.exits.thresholds import Calibrated, calibrate, stops
from engine.methods.dynamic.exits.training import joint_loss, of_all_exits, weights_of
from engine.methods.dynamic.spec_exits import EarlyExit
from engine.networks.example_inputs import DOES_NOT_FIT, running_inputs
from engine.networks.network import Network
from engine.training.batches import Batch, Examples

_AUTOMATIC_BUDGETS = (0.25, 0.5, 0.75)
"""Where `auto` puts budgets, between the cost of the first exit and that of the last."""
_FEW = 200
"""With fewer validation examples thresholds are rough."""
_EXAMPLES = 4
_RANDOM_DRAWS = 20
_TRAINED = 0.9
"""Share of the step's progress at which the training is done."""


def apply(network: Network, params: EarlyExit, context: Context) -> Network:
    """Return the network with all of its exits: one setting a budget, and one a fixed exit.

    Raises `no_confidence`, `no_validation_examples`, `budget_unreachable`, `loss_weights_invalid` and the codes of
    `engine.methods.dynamic.exits.attaching`.
    """
    heads = context.reading()
    check_confident(heads)
    train, validation = context.held_out_from_evaluation()
    inputs = _some_inputs(network, context, train)
    module, positions = with_exits(
        copy.deepcopy(network.module), params, heads, inputs=inputs, names=context.input_names, seed=context.new_seed()
    )
    costs = module.costs(inputs)
    whole = _whole(network, costs, inputs, context)
    budgets = _budgets(params, costs, whole, context)
    weights = weights_of(params, len(costs))
    context.phase("training")
    loss = of_all_exits(module, joint_loss(context.trained_heads(train), weights, module.outputs, params))
    with context.part(0.0, _TRAINED):
        context.train(module, params, loss=loss, examples=train, validation=validation)
    context.phase("calibrating")
    if validation.count < _FEW:
        context.warn(
            "few_validation_examples",
            f"Thresholds were calibrated on {validation.count} validation examples: shares that stop are known to about "
            f"{100 / max(1.0, 2 * validation.count**0.5):.0f} points.",
        )
    asked = AllAnswers.of(module, validation, context.input_names, context.device)
    module = module.cpu()
    temperatures = _temperatures(asked, heads, len(costs), params, context)
    for place, temperature in enumerate(temperatures):
        module.confidence(place).temperature.fill_(temperature)
    found = context.replicas.once(lambda: _calibrated(asked, module, costs, budgets, whole))
    calibrated = [Calibrated(**{**item, "thresholds": tuple(item["thresholds"]), "shares": tuple(item["shares"])}) for item in found]
    _report(module, asked, calibrated, params, context, facts=_Facts(positions, costs, whole, temperatures))
    context.progress(_TRAINED + (1 - _TRAINED) / 2, "thresholds are calibrated")
    settings, thresholds = _settings(params, calibrated, len(costs))

    def select(own: nn.Module, setting: Setting) -> nn.Module:
        assert isinstance(own, ExitNetwork)
        if setting.name in thresholds:
            return BudgetNetwork(own, thresholds[setting.name])
        return own.at(int(setting.values["exit"]) - 1)

    result = network.with_module(module, settings=settings, select=select)
    if context.replicas.rank == 0:
        plain, half = result.plain().module, result.weights_type == "float16"
        assert isinstance(plain, ExitNetwork)
        publish_stages(plain, network.signature, calibrated, costs, context, half=half)
        check_stages(plain, calibrated, validation, context, half=half)
    return result


@dataclass(frozen=True)
class _Facts:
    positions: Sequence[str]
    costs: Sequence[int]
    whole: float
    temperatures: Sequence[float]


def _some_inputs(network: Network, context: Context, examples: Examples) -> tuple[Tensor, ...]:
    """A few training examples, as often as it takes to have enough of them."""
    few = Batch.of(examples, np.arange(_EXAMPLES) % max(1, examples.count), context.input_names, torch.device("cpu"))
    try:
        with torch.no_grad():
            network.module(*few.inputs)
    except DOES_NOT_FIT:
        return running_inputs(network.module, network.signature, _EXAMPLES, torch.device("cpu"))
    return few.inputs


def _whole(network: Network, costs: Sequence[int], inputs: Sequence[Tensor], context: Context) -> float:
    """Multiply-accumulates of the network that was given, with none of the exits but its own; of all exits where they cannot be counted."""
    shapes = {name: tuple(value.shape[1:]) for name, value in zip(context.input_names, inputs, strict=True)}
    counted = network.count(shapes).macs_count
    return float(counted or costs[-1])


def _budgets(params: EarlyExit, costs: Sequence[int], whole: float, context: Context) -> tuple[float, ...]:
    least = costs[0] / whole
    if costs[0] >= whole:
        context.warn("exits_too_costly", f"The first exit costs {least:.3g} times what the network costs without exits: it saves nothing.")
    if params.budgets == "auto" and least < 1:
        found = (round(least + share * (1 - least), 3) for share in _AUTOMATIC_BUDGETS)
        return tuple(dict.fromkeys(max(least, value) for value in found))
    wanted = params.budgets if params.budgets != "auto" else () if params.anytime else (1.0,)
    for budget in wanted:
        if budget * whole < costs[0] * (1 - 1e-9):
            raise EngineError(
                "budget_unreachable",
                f"The budget {budget:g} is less than what the first exit costs: {least:.3g} of the network's multiply-accumulates.",
                hint="Raise the budget, or put the first exit earlier.",
                details={"budget": budget, "least": least},
            )
    return wanted


def _temperatures(asked: AllAnswers, heads: Sequence[Head], exits: int, params: EarlyExit, context: Context) -> list[float]:
    if not params.temperature_scaling:
        return [1.0] * exits
    found: list[float | None] = context.replicas.once(lambda: [asked.temperature(place, heads) for place in range(exits)])
    if None in found:
        context.warn("temperature_not_fitted", "The validation examples have no targets: confidences were left at temperature 1.")
    return [1.0 if value is None else value for value in found]


def _calibrated(
    asked: AllAnswers, module: ExitNetwork, costs: Sequence[int], budgets: Sequence[float], whole: float
) -> list[dict[str, object]]:
    confidences = asked.confidences(module)
    return [dict(vars(calibrate(confidences, costs, budget, whole))) for budget in budgets]


def _report(
    module: ExitNetwork, validation: AllAnswers, calibrated: Sequence[Calibrated], params: EarlyExit, context: Context, *, facts: _Facts
) -> None:
    """Every exit and every budget, on the validation examples and on the evaluated split, where there is one with targets."""
    heads, split = context.reading(), context.evaluation_split
    metric = context.quality(context.split("train"))
    evaluated = None
    if context.replicas.rank == 0 and context.data is not None and split in context.data.splits:
        evaluated = AllAnswers.of(module, context.split(split), context.input_names, torch.device("cpu"))
    exits = []
    for place, (position, macs) in enumerate(zip(facts.positions, facts.costs, strict=True)):
        figures = [None if item is None else _always(item, place, heads, metric.name) for item in (validation, evaluated)]
        exits.append(ExitRow(place + 1, position, macs, facts.temperatures[place], *figures))
    source = validation if evaluated is None else evaluated
    confidences = source.confidences(module)
    budgets = []
    for item in calibrated:
        taken = stops(confidences, item.thresholds)
        shares = np.bincount(taken, minlength=len(facts.costs)) / len(taken)
        randomly = _random(source, taken, heads, metric.name, context) if "random_exits" in params.controls else None
        mean = float(np.asarray(facts.costs)[taken].mean())
        budgets.append(BudgetRow(item, tuple(map(float, shares)), mean, source.quality(taken, heads, metric.name), randomly))
    context.report("whole_macs_count", facts.whole)
    context.report("validation_examples", validation.count)
    context.report("exits", [row.report(metric.name) for row in exits])
    context.report("budgets", [row.report(metric.name) for row in budgets])
    show(context, metric, facts.whole, exits, budgets)


def _always(answers: AllAnswers, place: int, heads: Sequence[Head], metric: str) -> float | None:
    return answers.quality(np.full(answers.count, place, dtype=np.int64), heads, metric)


def _random(answers: AllAnswers, taken: np.ndarray, heads: Sequence[Head], metric: str, context: Context) -> float | None:
    """The mean quality where the exits of all examples are dealt out anew."""
    rng = context.rng()
    found = [answers.quality(rng.permutation(taken), heads, metric) for _ in range(_RANDOM_DRAWS)]
    values = [value for value in found if value is not None]
    return float(np.mean(values)) if values else None


def _settings(params: EarlyExit, calibrated: Sequence[Calibrated], exits: int) -> tuple[tuple[Setting, ...], dict[str, tuple[float, ...]]]:
    thresholds = {f"budget {item.budget:g}": item.thresholds for item in calibrated}
    budgets = [Setting(name=f"budget {item.budget:g}", values={"budget": item.budget}) for item in calibrated]
    always = [Setting(name=f"exit {number}", values={"exit": float(number)}) for number in range(1, exits + 1)] if params.anytime else []
    return (*budgets, *always), thresholds
