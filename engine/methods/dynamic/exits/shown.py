"""What the reports show of exits and budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.contract.display import Bar, Bars, Column, Curve, Line, Table
from engine.contract.metric import Metric
from engine.methods.dynamic.exits.thresholds import Calibrated
from engine.methods.step import StepContext


@dataclass(frozen=True)
class ExitRow:
    """One exit."""

    number: int
    position: str
    macs_count: int
    """Up to and with this exit, all earlier exits included."""
    temperature: float
    validation: float | None
    """Quality on the validation examples where everything stops here."""
    evaluated: float | None
    """The same on the evaluated split."""

    def report(self, metric: str) -> dict[str, object]:
        """As JSON."""
        return {
            "exit": self.number,
            "position": self.position,
            "macs_count": self.macs_count,
            "temperature": self.temperature,
            f"validation.{metric}": self.validation,
            f"evaluated.{metric}": self.evaluated,
        }


@dataclass(frozen=True)
class BudgetRow:
    """One budget, calibrated on the validation examples and tried on the evaluated ones."""

    calibrated: Calibrated
    shares: tuple[float, ...]
    """Of the evaluated examples that stop at each exit."""
    macs_count: float
    """Mean of the evaluated examples."""
    quality: float | None
    random_exits: float | None
    """Where as many examples leave at each exit, but random ones; None where that was not asked for."""

    def report(self, metric: str) -> dict[str, object]:
        """As JSON."""
        own = self.calibrated
        found: dict[str, object] = {
            "budget": own.budget,
            "thresholds": [None if value == float("inf") else value for value in own.thresholds],
            "validation": {"shares": list(own.shares), "macs_count": own.macs_count},
            "evaluated": {"shares": list(self.shares), "macs_count": self.macs_count, metric: self.quality},
        }
        if self.random_exits is not None:
            found["random_exits"] = {metric: self.random_exits}
        return found


def show(context: StepContext, metric: Metric, whole: float, exits: Sequence[ExitRow], budgets: Sequence[BudgetRow]) -> None:
    """The anytime table, the budget table and curve, and where examples stop."""
    quality = f"{metric.title}, {context.evaluation_split}"
    controlled = any(row.random_exits is not None for row in budgets)
    context.show(
        Table(
            title="Anytime",
            columns=(
                Column(title="exit", unit="count"),
                Column(title="behind"),
                Column(title="multiply-accumulates up to it", unit="count"),
                Column(title="of the whole network", unit="share"),
                Column(title=f"{metric.title}, validation", unit=metric.unit),
                Column(title=quality, unit=metric.unit),
                Column(title="temperature"),
            ),
            rows=tuple(
                (row.number, row.position, row.macs_count, row.macs_count / whole, row.validation, row.evaluated, row.temperature)
                for row in exits
            ),
        )
    )
    if not budgets:
        return
    context.show(
        Table(
            title="Budgets",
            columns=(
                Column(title="budget", unit="share"),
                Column(title=f"multiply-accumulates, {context.evaluation_split}", unit="share"),
                Column(title=quality, unit=metric.unit),
                *((Column(title="the same shares, random examples", unit=metric.unit),) if controlled else ()),
            ),
            rows=tuple(
                (row.calibrated.budget, row.macs_count / whole, row.quality, *((row.random_exits,) if controlled else ()))
                for row in budgets
            ),
        )
    )
    points = {
        "fixed exit": [(row.macs_count / whole, row.evaluated) for row in exits],
        "budgets": sorted((row.macs_count / whole, row.quality) for row in budgets),
        "random exits": sorted((row.macs_count / whole, row.random_exits) for row in budgets),
    }
    lines = [Line(name=name, points=tuple((x, y) for x, y in pairs if y is not None)) for name, pairs in points.items()]
    context.show(
        Curve(
            title="Quality by multiply-accumulates",
            x=Column(title="multiply-accumulates", unit="share"),
            y=Column(title=quality, unit=metric.unit),
            lines=tuple(line for line in lines if line.points),
        )
    )
    context.show(
        Bars(
            title="Where examples stop",
            unit="share",
            series=tuple(f"exit {row.number}" for row in exits),
            bars=tuple(Bar(name=f"budget {row.calibrated.budget:g}", values=row.shares) for row in budgets),
        )
    )
