"""What a routing came to, for people: skip rates and entropies of every block, gates that decide nothing, and controls."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.contract.display import Bar, Bars, Column, Table
from engine.methods.context import Context
from engine.methods.dynamic.routing.blocks import listed
from engine.methods.dynamic.routing.learning import Controlled, routes
from engine.methods.dynamic.routing.network import SkippingNetwork
from engine.methods.dynamic.routing.settings import Variant, gated
from engine.methods.dynamic.spec_skip import SkipRouting

_MOST_COLUMNS = 64


def show(networks: Sequence[SkippingNetwork], variants: Sequence[Variant], params: SkipRouting, context: Context) -> None:
    """Skip rates and entropies of every block, warnings about gates that decide nothing, and controls in memory."""
    split = context.evaluation_split if context.data is not None and context.evaluation_split in context.data.splits else "train"
    examples, names = context.split(split), [route.name for route in networks[0].routes]
    rates: dict[str, NDArray[np.float64]] = {}
    entropies: dict[str, NDArray[np.float64]] = {}
    controls: dict[str, dict[str, float]] = {}
    for variant in (variant for variant in variants if variant.gates):
        # A later gate sees what the earlier decisions left, so each threshold has routes of its own.
        network = gated(networks[variant.network], variant)
        found = routes(network, examples, context.input_names, context.device)
        key, taken = variant.setting.name, found.probabilities > variant.threshold
        rates[key], entropies[key] = 1 - taken.mean(0), _entropy(found.probabilities).mean(0)
        _warn_about_constant_gates(key, rates[key], names, context)
        controls |= _controls(key, Controlled(network, taken, found.keys), params, context, split)
    document = {
        key: {
            "skip_rate": float(rates[key].mean()),
            "blocks": {
                name: {"skip_rate": float(r), "entropy": float(e)} for name, r, e in zip(names, rates[key], entropies[key], strict=True)
            },
        }
        for key in rates
    }
    context.report("routes", document)
    context.metric("skip_rate", document[variants[0].setting.name]["skip_rate"])  # type: ignore[arg-type]  # a number beside a table
    columns = [Column(title="block"), *(Column(title=f"skipped, {key}", unit="share") for key in rates)]
    columns += [Column(title=f"gate's entropy, {key}", unit="nats") for key in rates]
    figures = [*rates.values(), *entropies.values()]
    rows = tuple((name, *(float(values[place]) for values in figures)) for place, name in enumerate(names))
    if len(columns) <= _MOST_COLUMNS:
        context.show(Table(title=f"Routes on {split}", columns=tuple(columns), rows=rows))
    bars = tuple(Bar(name=name, values=tuple(float(values[place]) for values in rates.values())) for place, name in enumerate(names))
    context.show(Bars(title=f"Share of {split} examples that skip a block", unit="share", series=tuple(rates), bars=bars))
    if controls:
        context.report("controls", controls)
        context.show(
            Table.of(
                "Controls in memory: routes that do not look at the input", "control", [{"control": k, **v} for k, v in controls.items()]
            )
        )


def _entropy(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Of a decision, in nats."""
    p = np.clip(probabilities.astype(np.float64), 1e-12, 1 - 1e-12)
    found: NDArray[np.float64] = -p * np.log(p) - (1 - p) * np.log(1 - p)
    return found


def _warn_about_constant_gates(key: str, rates: NDArray[np.float64], names: Sequence[str], context: Context) -> None:
    always, never = ([name for name, rate in zip(names, rates, strict=True) if rate == wanted] for wanted in (1.0, 0.0))
    if always or never:
        habits = [f"skip {listed(always)} for every input"] * bool(always) + [f"never skip {listed(never)}"] * bool(never)
        context.warn(
            "gate_constant",
            f"Gates that do not look at the input ({key}): they {' and '.join(habits)}. Change alpha, or train longer with a smaller "
            "learning rate; a block that never runs can be removed by sparse_structure_selection.",
            setting=key,
            always_skipped=always,
            never_skipped=never,
        )


def _controls(key: str, controlled: Controlled, params: SkipRouting, context: Context, split: str) -> dict[str, dict[str, float]]:
    """The same network with routes that do not depend on the input, at the same rate."""
    found: dict[str, dict[str, float]] = {}
    taken = controlled.routes.numpy()
    for name in (name for name in params.controls if name in ("random", "shuffled")):
        rng = context.rng()
        other = rng.random(taken.shape) < taken.mean() if name == "random" else taken[rng.permutation(len(taken))]
        figures = context.evaluate(controlled.along(other).to(context.device).eval(), split)
        found[f"{name} ({key})"] = {"skip_rate": float(1 - other.mean()), **figures}
    return found
