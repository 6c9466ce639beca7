"""Slimmable networks (Yu et al., 2019; US-Nets, Yu and Huang, 2019; nested transformers): one set of weights, several widths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from engine.contract.display import Column, Table
from engine.contract.figures import Setting
from engine.contract.metric import Key, first_of
from engine.methods.context import Context
from engine.methods.slimming.sandwich import all_widths, sandwich_rule, train_together
from engine.methods.slimming.spec_slimmable import LEVELS, Slimmable
from engine.methods.slimming.supernet import Supernet, calibrate
from engine.methods.slimming.switchable import Switchable, setting_of
from engine.networks.network import Network
from engine.structure.plan import Costs


def apply(network: Network, params: Slimmable, context: Context) -> Network:
    """Train a copy of the network at all widths together; the widest is the first setting of what is returned.

    Raises `width_empties_layer` where a width leaves nothing of a layer, `pruning_impossible` where no layer has a width at all.
    """
    context.phase("analysing")
    widths = params.descending()
    supernet = Supernet(network.module, params, context)
    counts = {width: supernet.counts(width) for width in widths}
    original = supernet.copied() if params.controls else None
    supernet.cut_to(counts[widths[0]])
    share = 1 / (1 + len(params.controls))
    context.stage("before", supernet.module)
    seed = context.new_seed()
    with context.part(0.0, share):
        switchable = trained(supernet, params, context, normalization=params.switched, seed=seed)
    alone = [switchable.alone(number) for number in range(len(widths))]
    found = {"slimmable": [context.stage(setting_of(width).name, module) for width, module in zip(widths, alone, strict=True)]}
    for place, control in enumerate(params.controls, 1):
        assert original is not None
        context.phase("baselines")
        with context.part(place * share, (place + 1) * share):
            found[control] = _CONTROLS[control](original.copied(), params, context, seed)
    _report(supernet, counts, alone, found, context)
    return _published(network, switchable.cpu(), widths)


def trained(supernet: Supernet, params: Slimmable, context: Context, *, normalization: str, seed: int, report: bool = True) -> Switchable:
    """The supernet's module with all its widths, trained together; the widths of the spec come first, the largest at the front."""
    widths = list(params.descending())
    low, high = widths[-1], widths[0]
    if params.universal:
        known = [supernet.counts(width) for width in widths]
        for width in (low + (high - low) * step / LEVELS for step in range(1, LEVELS)):
            if (counts := supernet.counts(width)) not in known:
                widths.append(width)
                known.append(counts)
    switchable = Switchable(
        supernet.graph,
        [supernet.units(supernet.counts(width)) for width in widths[1:]],
        own_statistics=normalization != "shared",
        own_scales=normalization == "switchable",
        own_biases=normalization == "switchable" and not supernet.has_heads,
    )
    switchable.order = supernet.order
    if normalization != "shared":
        calibrate(switchable, range(1, switchable.count), context)
    choose = all_widths(switchable.count)
    if params.universal:
        by_size = sorted(range(len(widths)), key=lambda number: -widths[number])
        choose = sandwich_rule(by_size, params.samples, seed)
    context.phase("training")
    train_together(switchable, params, choose, context, distill=params.distills, seed=seed, report=report)
    switchable.keep(len(params.widths))
    if normalization == "recalibrated":
        calibrate(switchable, range(switchable.count), context)
    return switchable.eval()


def _published(network: Network, switchable: Switchable, widths: Sequence[float]) -> Network:
    settings = tuple(map(setting_of, widths))

    def select(module: nn.Module, setting: Setting) -> nn.Module:
        assert isinstance(module, Switchable)
        return module.alone(settings.index(setting)).eval()

    def parts(module: nn.Module) -> set[tuple[int, ...]]:
        assert isinstance(module, Switchable)
        return set().union(*(module.kept(number) for number in range(module.count)))

    return network.with_module(switchable, settings=settings, select=select, parts=parts)


# Controls

Control = Callable[[Supernet, Slimmable, Context, int], list[dict[str, float]]]


def _cut(supernet: Supernet, width: float) -> nn.Module:
    copied = supernet.copied()
    copied.cut(copied.counts(width))
    return copied.module


def _individual(supernet: Supernet, params: Slimmable, context: Context, seed: int) -> list[dict[str, float]]:
    """Each width by itself, from the same weights, on the same examples in the same order."""
    found = []
    widths = params.descending()
    for number in context.rounds(len(widths)):
        module = _cut(supernet, widths[number - 1])
        context.train(module, params, seed=seed, report=False)
        found.append(_figures(module, context))
    return found


def _shared(supernet: Supernet, params: Slimmable, context: Context, seed: int) -> list[dict[str, float]]:
    """The same training with one batch normalization for all widths."""
    supernet.cut_to(supernet.counts(params.descending()[0]))
    switchable = trained(supernet, params, context, normalization="shared", seed=seed, report=False)
    return [_figures(switchable.alone(number), context) for number in range(switchable.count)]


def _sliced(supernet: Supernet, params: Slimmable, context: Context, seed: int) -> list[dict[str, float]]:
    """The network as it was given, without its other channels."""
    return [_figures(_cut(supernet, width), context) for width in params.descending()]


_CONTROLS: dict[str, Control] = {"individual": _individual, "shared": _shared, "sliced": _sliced}


def _figures(module: nn.Module, context: Context) -> dict[str, float]:
    if context.data is None or context.evaluation_split not in context.data.splits:
        return {}
    return context.evaluate(module, context.evaluation_split)


def _report(
    supernet: Supernet,
    counts: Mapping[float, dict[str, int]],
    alone: Sequence[nn.Module],
    found: dict[str, list[dict[str, float]]],
    context: Context,
) -> None:
    names = [setting_of(width).name for width in counts]
    costs = [Costs(module, supernet.inputs) for module in alone]
    rows = [
        {"width": width, "params_count": cost.params_count(), "macs_count": cost.macs_count(), "units": units}
        for (width, units), cost in zip(counts.items(), costs, strict=True)
    ]
    context.report("widths", rows)
    context.report("comparison", {name: dict(zip(names, figures, strict=True)) for name, figures in found.items()})
    context.report("inserted_normalization", supernet.inserted)
    context.show(
        Table(
            title="Units of each layer",
            columns=(Column(title="layer"), *(Column(title=name, unit="count") for name in names)),
            rows=tuple((group.name, *(each[group.name] for each in counts.values())) for group in supernet.groups),
        )
    )
    key = first_of(found["slimmable"][0])
    if key is not None and len(found) > 1:
        unit = Column.of(key).unit
        metric = Key.parse(key).name.replace("_", " ")
        context.show(
            Table(
                title=f"Widths beside controls ({metric})",
                columns=(Column(title="width"), *(Column(title=name, unit=unit) for name in found)),
                rows=tuple((name, *(figures[place].get(key) for figures in found.values())) for place, name in enumerate(names)),
            )
        )
