"""Measures a step's files beside the baseline, for methods that choose between several."""

from collections.abc import Mapping
from pathlib import Path

from engine.contract import constraints
from engine.contract.metric import Key, catalogue
from engine.jobs.inputs import JobInputs
from engine.measuring.examiner.client import Examiner
from engine.measuring.examiner.messages import Score
from engine.networks.network import Network

Metrics = Mapping[str, float | None]


class FileJudge:
    """Asks the job's examiner; see `engine.methods.step.Judge`."""

    def __init__(self, inputs: JobInputs, examiner: Examiner, baseline: Score) -> None:
        self._inputs, self._examiner, self._baseline = inputs, examiner, baseline
        target = inputs.spec.constraints
        self._target = None if target is None else target.accuracy

    @property
    def baseline(self) -> Metrics:
        """Metrics of the uploaded model."""
        return self._baseline.metrics

    @property
    def has_target(self) -> bool:
        """Whether the spec sets an accuracy target."""
        return self._target is not None

    def score(self, network: Network) -> Metrics:
        """Metrics of a network's ONNX file on the evaluated examples."""
        return self._examiner.score(self._inputs.to_score(self._file(network), network, as_timed=network.batch_dependent))().metrics

    def meets_target(self, metrics: Metrics) -> bool:
        """Whether metrics satisfy the accuracy target."""
        return self._target is not None and constraints.accuracy_kept(self._target, self._baseline.metrics, metrics, self._inputs.split)

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
        request = self._inputs.to_time(self._file(network), network, varied=network.input_dependent)
        return self._examiner.time(request.model_copy(update={"batch_sizes": request.batch_sizes[:1]}))()[0].speed.speedup

    def _file(self, network: Network) -> Path:
        return network.file(self._inputs.work / "judged.onnx")
