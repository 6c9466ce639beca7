"""What a metric declares, and the catalogue that finds every metric.

A metric is one `Metric` in its family's `engine/metrics/<family>/spec.py` and one file `engine/metrics/<family>/<name>.py` with a public
class `Accumulator`, which is fed batch by batch. Nothing registers anything: the catalogue walks the families. This module imports
no numpy, so that the API can read the catalogue.
"""

import functools
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

from pydantic import Field

from engine.contract.base import Params


class Metric(Params):
    """One figure of quality: its name in keys and specs, what is better, and what it is measured from."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")
    title: str
    """What people read."""
    spoken: str = ""
    """In a sentence; the name in words where it is empty."""
    goal: Literal["max", "min"]
    """Whether the largest or the smallest value is the best."""
    needs: Literal["targets", "baseline"]
    """What the outputs are compared with: the dataset's targets, or the uploaded model's outputs."""
    unit: Literal["share", "nats", "dB", ""] = ""
    """`share` for 0 to 1; empty for a number without a unit, or in the targets' own unit."""
    precedence: int = 100
    """Where there is room for one metric only, the smallest number of those measured is shown."""
    alike: float | None = None
    """Of a comparison with the baseline: the least value at which outputs pass for the same."""
    counts_examples: bool = False
    """Whether it is the share of examples that are right, so that it has a Wilson interval."""

    @property
    def short(self) -> str:
        """The name in a sentence."""
        return self.spoken or self.name.replace("_", " ")

    def loss(self, before: float, after: float) -> float:
        """How much worse `after` is than `before`, in the metric's own unit; negative where it is better."""
        return before - after if self.goal == "max" else after - before

    def worst(self, values: Iterable[float]) -> float:
        """The worst of some values."""
        return min(values) if self.goal == "max" else max(values)


class Key(NamedTuple):
    """A key of measured metrics, `<split>.<metric>` or `<split>.<metric>.<output>`, in its parts."""

    split: str
    name: str
    output: str | None = None
    """The output that the value belongs to; None for the value overall, which of several outputs is that of the worst."""

    @classmethod
    def parse(cls, key: str) -> "Key":
        """Of a key; outputs may have points in their names."""
        split, _, rest = key.partition(".")
        name, _, output = rest.partition(".")
        return cls(split, name, output or None)

    @property
    def metric(self) -> Metric | None:
        """Its entry in the catalogue; None for figures that are no metric."""
        return catalogue().get(self.name)

    def __str__(self) -> str:
        return ".".join(part for part in self if part is not None)


@functools.cache
def catalogue() -> Mapping[str, Metric]:
    """Every metric by name, those first that are shown first; read from `engine.metrics.<family>.spec` of every family."""
    found = [metric for module in _families() for metric in module.METRICS]
    return {metric.name: metric for metric in sorted(found, key=lambda metric: (metric.precedence, metric.name))}


def accumulator(name: str) -> Callable[..., Any]:
    """The class that computes a metric (`engine.metrics.accumulator.Accumulator`). Imports numpy."""
    family = next(module.__name__.rpartition(".")[0] for module in _families() if any(metric.name == name for metric in module.METRICS))
    found: Callable[..., Any] = importlib.import_module(f"{family}.{name}").Accumulator
    return found


def first_of(keys: Iterable[str]) -> str | None:
    """The key of the metric that is shown where there is room for one; values overall only. None where there is no metric."""
    ranked = [(key.metric.precedence, str(key)) for key in map(Key.parse, keys) if key.output is None and key.metric is not None]
    return min(ranked)[1] if ranked else None


@functools.cache
def _families() -> tuple[Any, ...]:
    packages = pkgutil.iter_modules(importlib.import_module("engine.metrics").__path__, "engine.metrics.")
    names = [f"{package.name}.spec" for package in packages if package.ispkg]
    return tuple(importlib.import_module(name) for name in names if importlib.util.find_spec(name))
