"""One training run with early stopping found afterwards, as lottery tickets are measured."""

from __future__ import annotations

import copy
import math
import statistics
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

from engine.contract.params import Finetune
from engine.methods.context import Context
from engine.training.loop import Hooks, Moment, iterations_of

State = dict[str, Tensor]
CURVE_POINTS = 100


Row = dict[str, Any]
"""A row of the step's report, as JSON types."""


@dataclass
class Trial:
    """What a training run came to; early stopping is the look at which the validation loss was lowest."""

    early_stop_iteration: int = 0
    early_stop: dict[str, float] = field(default_factory=dict)
    """Figures of the network as it was at early stopping."""
    end: dict[str, float] = field(default_factory=dict)
    """Figures at the end of training."""
    untrained: dict[str, float] = field(default_factory=dict)
    """Figures before the first step: what the mask alone is worth."""
    curve: list[tuple[int, float, float]] = field(default_factory=list)
    """Iteration, and the validation examples' risk (such as cross-entropy) and quality (such as accuracy), at every look."""

    @classmethod
    def from_json(cls, fields: Row) -> Trial:
        """The run whose fields were written as JSON."""
        return cls(**{**fields, "curve": [(int(look[0]), float(look[1]), float(look[2])) for look in fields["curve"]]})

    def to_json(self) -> Row:
        """The run as a row of the report; of a long curve, evenly spaced looks."""
        return {
            "early_stop_iteration": self.early_stop_iteration,
            "early_stop": self.early_stop,
            "end": self.end,
            "untrained": self.untrained,
            "curve": [[iteration, float(f"{loss:.6g}"), float(f"{quality:.6g}")] for iteration, loss, quality in thinned(self.curve)],
        }


def thinned(curve: list[tuple[int, float, float]]) -> list[tuple[int, float, float]]:
    """At most `CURVE_POINTS` looks of a curve, evenly spaced, the last one among them."""
    step = -(-len(curve) // CURVE_POINTS)
    return curve[::-1][:: max(1, step)][::-1]


def mean_trial(trials: list[Trial]) -> Row:
    """Means over repeated runs, as a row of the report, and the spread of what early stopping gave."""
    first = trials[0].to_json()
    means = Trial(
        early_stop={key: statistics.fmean(trial.early_stop[key] for trial in trials) for key in first["early_stop"]},
        end={key: statistics.fmean(trial.end[key] for trial in trials) for key in first["end"]},
        untrained={key: statistics.fmean(trial.untrained[key] for trial in trials) for key in first["untrained"]},
        curve=[
            (looks[0][0], statistics.fmean(look[1] for look in looks), statistics.fmean(look[2] for look in looks))
            for looks in zip(*(trial.curve for trial in trials), strict=True)
        ],
    ).to_json()
    stops = [trial.early_stop_iteration for trial in trials]
    spread = {key: [trial.early_stop[key] for trial in trials] for key in first["early_stop"]}
    return means | {"early_stop_iteration": statistics.fmean(stops), "trials": {"early_stop_iteration": stops, "early_stop": spread}}


class Trainer:
    """Runs trials of one step: the same examples, budget and looks for every network."""

    def __init__(self, context: Context, training: Finetune, validation_every: int) -> None:
        self._context, self._params, self._every = context, training, validation_every
        self.examples, self._validation = context.held_out()
        self.iterations = iterations_of(training, self.examples.count)
        self.quality, self.risk = context.quality(self.examples), context.risk(self.examples)

    def run(self, module: nn.Module, *, seed: int, start: int = 0, capture: int | None = None) -> tuple[Trial, State]:
        """Train the module in place from iteration `start`; returns the trial and the state after iteration `capture` (or the end).

        Momentum and Adam's moments start at zero, as the state at `start` holds weights only. What another attempt of the job ran to
        its end is not run again; a run that was under way begins anew.
        """
        place = self._context.place()
        saved = None if place is None else place.load()
        if saved is not None:
            tensors = saved.tensors()
            module.load_state_dict({name[7:]: value for name, value in tensors.items() if name.startswith("module.")})
            state = {name[6:]: value.to(self._context.device) for name, value in tensors.items() if name.startswith("state.")}
            return Trial.from_json(saved.info), state
        began = time.monotonic()
        trial, state = self._run(module, seed=seed, start=start, capture=capture)
        if place is not None:
            tensors = {f"module.{name}": value for name, value in module.state_dict().items()}
            tensors |= {f"state.{name}": value for name, value in state.items()}
            place.save(tensors, asdict(trial), done=True, seconds=time.monotonic() - began)
        return trial, state

    def _run(self, module: nn.Module, *, seed: int, start: int, capture: int | None) -> tuple[Trial, State]:
        context, trial = self._context, Trial()
        loss = context.loss(module, self.examples, self._params.label_smoothing)
        trial.untrained = self._figures(module)
        captured: State = copy.deepcopy(module.state_dict()) if capture == start else {}
        best: State = {}

        def look(moment: Moment) -> None:
            nonlocal best, captured
            if moment.iteration == capture:
                captured = copy.deepcopy(moment.module.state_dict())
            if moment.iteration % self._every and moment.iteration != moment.iterations:
                return
            seen = self._context.score(moment.module, self._validation)
            risk, quality = (seen.get(metric.name, math.nan) for metric in (self.risk, self.quality))
            if not math.isnan(risk) and all(not self.risk.loss(earlier, risk) >= 0 for _, earlier, _ in trial.curve):
                best, trial.early_stop_iteration = copy.deepcopy(moment.module.state_dict()), moment.iteration
            trial.curve.append((moment.iteration, risk, quality))

        context.train(
            module,
            self._params,
            examples=self.examples,
            loss=loss,
            seed=seed,
            hooks=Hooks(on_step=(look,)),
            start_iteration=start,
            report=False,
            save=False,
        )
        trial.end = self._figures(module) | {f"train.{self.quality.name}": self._context.score(module, self.examples)[self.quality.name]}
        trial.early_stop = trial.end
        if best:
            final = copy.deepcopy(module.state_dict())
            module.load_state_dict(best)
            trial.early_stop = self._figures(module)
            module.load_state_dict(final)
        return trial, captured or copy.deepcopy(module.state_dict())

    def _figures(self, module: nn.Module) -> dict[str, float]:
        figures = {f"validation.{name}": value for name, value in self._context.score(module, self._validation).items()}
        context = self._context
        split = context.evaluation_split
        if context.data is not None and split in context.data.splits and split != "validation":
            figures |= {f"{split}.{name}": value for name, value in context.score(module, context.labelled(split)).items()}
        return figures
