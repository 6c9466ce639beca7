"""Files that a method makes to choose one of them: each is measured as the job measures what it publishes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from engine.contract.display import Cell, Shown
from engine.contract.errors import EngineError
from engine.contract.events import Event, Warned
from engine.contract.json import JsonObject
from engine.contract.metric import Key, catalogue
from engine.networks.network import Network

if TYPE_CHECKING:
    from engine.methods.step import StepContext

POINT = 0.01
"""How much of what the targets say may be lost where the spec sets no limit: a point of accuracy, of R² …"""


@dataclass
class Try:
    """One kind of quantization, and what was measured on its file."""

    kind: str
    network: Network | None = None
    reported: JsonObject = field(default_factory=dict)
    shown: tuple[Shown, ...] = ()
    warnings: tuple[Event, ...] = ()
    file_bytes: int = 0
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    speedup: float | None = None
    near: bool | None = None
    """Whether it meets the accuracy target, or without one stays near the original; None where nothing was measured."""
    error: EngineError | None = None

    def document(self, kept: Try) -> JsonObject:
        """As it stands in the step's report."""
        row: JsonObject = {"kind": self.kind, "kept": self is kept}
        if self.error is not None:
            return {**row, "error": {"code": self.error.code, "message": self.error.message}}
        operators = {name: self.reported.get(name) for name in ("int8_operators_count", "float_operators_count")}
        row |= {"file_bytes": self.file_bytes, "metrics": {**self.metrics}, "speedup": self.speedup, "near_enough": self.near}
        return row | operators

    def row(self, kept: Try) -> dict[str, Cell]:
        """As a line of the table of tries."""
        what = self.error.message if self.error is not None else "kept" if self is kept else "near enough" if self.near else "too far"
        row: dict[str, Cell] = {"kind": self.kind.replace("_", " "), "outcome": what}
        if self.error is None:
            row |= {"file_bytes": self.file_bytes, "speedup_ratio": self.speedup, **self.metrics}
        return row


def is_near(baseline: Mapping[str, float | None], metrics: Mapping[str, float | None]) -> bool:
    """Whether every output is within a point of the original's by its targets, or without any is like the original's."""
    return not far_from(baseline, metrics)


def far_from(before: Mapping[str, float | None], after: Mapping[str, float | None]) -> dict[str, float | None]:
    """The figures of `after` by which an output lost more than a point to `before`, or without targets is not like the original's any more.

    Likeness counts only where `before`, which may be a network that was changed already, is like the original itself.
    """
    keys = {Key.parse(key): key for key in after}
    outputs: set[str | None] = {key.output for key in keys if key.output is not None}
    own = [{key.name: text for key, text in keys.items() if key.output == output} for output in outputs or {None}]
    return {key: after[key] for key in (_far(names, before, after) for names in own) if key is not None}


def _far(names: Mapping[str, str], before: Mapping[str, float | None], after: Mapping[str, float | None]) -> str | None:
    """The figure of one output that decides, where it is too far off; `names` are the figures by metric."""
    measured = [(metric, names[name]) for name, metric in catalogue().items() if name in names]
    for metric, key in measured:
        if metric.needs == "targets" and metric.goal == "max":
            old, new = before.get(key), after[key]
            return None if old is not None and new is not None and metric.loss(old, new) <= POINT + 1e-9 else key
    for metric, key in measured:
        if metric.alike is not None:
            old, new = before.get(key), after[key]
            was_alike = old is None or old >= metric.alike - 1e-9
            return None if not was_alike or (new is not None and new >= metric.alike - 1e-9) else key
    return None


def attempt(kind: str, make: Callable[[StepContext], Network], context: StepContext) -> Try:
    """Make a file in a folder of its own and measure it; warnings wait until it is kept."""
    warnings: list[Event] = []
    work = context.work / kind
    work.mkdir(exist_ok=True)
    own = replace(
        context,
        work=work,
        reported={},
        shown=[],
        emit=lambda event: (warnings.append if isinstance(event, Warned) else context.emit)(event),
    )
    try:
        network = make(own)
    except EngineError as error:
        if error.category in ("resource", "transient"):
            raise
        return Try(kind, error=error)
    found = Try(kind, network, own.reported, tuple(own.shown), tuple(warnings), network.file(work / "candidate.onnx").stat().st_size)
    if context.judge is not None:
        found.metrics = context.judge.score(network)
        found.near = (
            context.judge.meets_target(found.metrics) if context.judge.has_target else is_near(context.judge.baseline, found.metrics)
        )
        found.speedup = context.judge.speedup(network)
    return found


def publish(kept: Try, context: StepContext) -> Network:
    """Say of the step what was said of the try that is kept; returns its network."""
    for event in kept.warnings:
        context.emit(event)
    for key, value in kept.reported.items():
        context.report(key, value)
    for item in kept.shown:
        context.show(item)
    assert kept.network is not None
    return kept.network
