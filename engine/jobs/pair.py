"""What a model and a dataset are to each other: how outputs are read, how good the model is on the examples, and whether it knows anything."""

from __future__ import annotations

from pathlib import Path

from engine.contract.errors import EngineError
from engine.contract.inspection import PairInspection
from engine.contract.job import DatasetFile, ModelFile
from engine.contract.metric import Key
from engine.data import load_dataset
from engine.formats import load_network
from engine.measuring.examiner.client import Examiner
from engine.measuring.examiner.messages import ExaminedDataset, ExampleSource, ScoreRequest

BATCH_SIZE = 64
_ORDER = ("test", "validation", "train")


def inspect_pair(model: ModelFile, dataset: DatasetFile, work: Path) -> PairInspection:
    """Score the model as it is on the first of `test`, `validation` and `train` that the dataset has.

    Raises the codes of `load_network` and `load_dataset`, and `metadata_invalid` where a declared task cannot read its output.
    """
    network = load_network(model.path, model.format, model.metadata, work)
    data = load_dataset(dataset.path, dataset.format, dataset.metadata, network.signature, work / "data")
    split = next((name for name in _ORDER if name in data.splits), None)
    if split is None:
        raise EngineError("dataset_invalid", "The dataset has no split.")
    file = network.file(work / "inspected.onnx")
    source = ExampleSource(
        dataset=ExaminedDataset(path=dataset.path, format=dataset.format, metadata=dataset.metadata),
        signature=network.signature,
        split=split,
        seed=0,
        work=work / "examined_data",
    )
    with Examiner() as examiner:
        request = ScoreRequest(
            file=file,
            baseline=file,
            outputs=work / "inspected_outputs",
            source=source,
            declared=model.metadata,
            batch_size=BATCH_SIZE,
            threads=1,
        )
        score = examiner.score(request)()
    known = {key: Key.parse(key).metric for key in score.metrics}
    return PairInspection(
        split=split,
        examples_count=score.examples_count,
        outputs=score.heads,
        metrics={key: score.metrics[key] for key, metric in known.items() if metric is not None and metric.needs == "targets"},
        unused_targets=score.unused_targets,
        near_chance=score.near_chance,
        notes=score.notes,
    )
