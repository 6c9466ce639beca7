"""Measures a step's files beside the baseline, for methods that choose between several."""

from collections.abc import Mapping
from pathlib import Path

from engine.contract import constraints
from engine.contract.metric import Key, catalogue
from engine.contract.spec import AccuracyConstraint
from engine.jobs.baseline import Baseline
from engine.measuring.examiner.client import Examiner
from engine.networks.network import Network

Metrics = Mapping[str, float | None]


class FileJudge:
    """Asks the job's examiner; see `engine.methods.step.Judge`."""

    def __init__(self, baseline: Baseline, target: AccuracyConstraint | None, examiner: Examiner) -> None:
        """A judge that waits for the baseline's score where it is first asked.

        Args:
            baseline: The uploaded network.
            target: The spec's accuracy target.
            examiner: Measures the files.
        """
        self._baseline, self._target, self._examiner = baseline, target, examiner

    @property
    def baseline(self) -> Metrics:
        """Metrics of the uploaded model."""
        return self._baseline.score.metrics

    @property
    def has_target(self) -> bool:
        """Whether the spec sets an accuracy target."""
        return self._target is not None

    def score(self, network: Network) -> Metrics:
        """Metrics of a network's ONNX file on the evaluated examples."""
        return self._examiner.score(
            self._baseline.inputs.to_score(self._file(network), network, as_timed=network.batch_dependent)
        )().metrics

    def meets_target(self, metrics: Metrics) -> bool:
        """Whether metrics satisfy the accuracy target."""
        return self._target is not None and constraints.accuracy_kept(self._target, self.baseline, metrics, self._baseline.inputs.split)

    def quality(self, metrics: Metrics) -> tuple[float, ...]:
        """The target's metric first, then every other in the order in which they are shown."""
        known = catalogue()
        wanted = "" if self._target is None else self._target.metric
        found = {Key.parse(key): value for key, value in metrics.items()}
        keys = sorted((key for key in found if key.output is None), key=lambda key: (key.name != wanted, known[key.name].precedence))
        signs = {"max": 1.0, "min": -1.0}
        return tuple(signs[known[key.name].goal] * value if (value := found[key]) is not None else float("-inf") for key in keys)

    def speedup(self, network: Network) -> float:
        """How many times faster a network's file is than the uploaded model, at the first batch size."""
        request = self._baseline.inputs.to_time(self._file(network), network, varied=network.input_dependent)
        return self._examiner.time(request.model_copy(update={"batch_sizes": request.batch_sizes[:1]}))()[0].speed.speedup

    def _file(self, network: Network) -> Path:
        return network.file(self._baseline.inputs.work / "judged.onnx")
