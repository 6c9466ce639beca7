"""A job as a run of MLflow: found by its tag or made, filled, ended; its result registered as a version of a model.

Everything can be done again: what is there already is left as it is, so that an attempt goes on where a lost one stopped.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from core.blobs import Blobs
from core.mlflow.flavor import described
from core.mlflow.rest import SERVED, Answered, MlflowRefused, Nothing, Rest, artifact_path
from core.mlflow.story import MODEL_FOLDER, Story, named
from modelpress.resources.webhooks import MlflowTracker

JOB_TAG = "modelpress.job_id"
_METRICS, _OTHERS = 1000, 100
"""Most that MLflow takes at a time."""
_EXISTS = "RESOURCE_ALREADY_EXISTS"
_MISSING = "RESOURCE_DOES_NOT_EXIST"
Item = TypeVar("Item")


class _Experiment(Answered):
    experiment_id: str
    lifecycle_stage: str = "active"


class _FoundExperiment(Answered):
    experiment: _Experiment


class _Info(Answered):
    run_id: str
    artifact_uri: str


class _Run(Answered):
    info: _Info


class _MadeRun(Answered):
    run: _Run


class _FoundRuns(Answered):
    runs: tuple[_Run, ...] = ()


class _Listed(Answered):
    path: str
    is_dir: bool = False
    file_size: int | None = None


class _Files(Answered):
    files: tuple[_Listed, ...] = ()


class _Versions(Answered):
    model_versions: tuple[Answered, ...] = ()


def check(rest: Rest, tracker: MlflowTracker) -> None:
    """Whether a server takes runs: its experiment is found, or made."""
    _experiment(rest, tracker.experiment)


def write(rest: Rest, tracker: MlflowTracker, story: Story, blobs: Blobs) -> str:
    """Write all that there is to tell about a job; returns the id of its run.

    Raises MlflowRefused, `egress_failed` and `egress_refused`: whoever calls tries again later.
    """
    info = _run(rest, _experiment(rest, tracker.experiment), story)
    _log(rest, info.run_id, story)
    if info.artifact_uri.startswith(SERVED):
        _upload(rest, info, story, blobs)
        models = [file for file in story.files if file.is_model]
        if models and story.status == "FINISHED":
            _register(rest, info, tracker.registered_model or named(story.model_name).replace("/", "_"), story)
    rest.post(Nothing, "runs/update", run_id=info.run_id, status=story.status, end_time=story.ended_ms)
    return info.run_id


def _experiment(rest: Rest, name: str) -> str:
    try:
        return rest.get(_FoundExperiment, "experiments/get-by-name", experiment_name=name).experiment.experiment_id
    except MlflowRefused as refused:
        if refused.error_code != _MISSING:
            raise
    try:
        return rest.post(_Experiment, "experiments/create", name=name).experiment_id
    except MlflowRefused as refused:  # another sender made it meanwhile
        if refused.error_code != _EXISTS:
            raise
    return rest.get(_FoundExperiment, "experiments/get-by-name", experiment_name=name).experiment.experiment_id


def _run(rest: Rest, experiment_id: str, story: Story) -> _Info:
    """The run of this job, the oldest where two senders made one at the same moment."""
    wanted = {"filter": f"tags.\"{JOB_TAG}\" = '{story.job_id}'", "max_results": 1, "order_by": ["attributes.start_time ASC"]}
    found = rest.post(_FoundRuns, "runs/search", experiment_ids=[experiment_id], **wanted).runs
    if found:
        return found[0].info
    tags = [{"key": JOB_TAG, "value": story.job_id}]
    given = {"run_name": story.name, "start_time": story.started_ms, "tags": tags}
    return rest.post(_MadeRun, "runs/create", experiment_id=experiment_id, **given).run.info


def _log(rest: Rest, run_id: str, story: Story) -> None:
    metrics = [{"key": item.key, "value": item.value, "timestamp": item.timestamp, "step": item.step} for item in story.metrics]
    for some in _batches(metrics, _METRICS):
        rest.post(Nothing, "runs/log-batch", run_id=run_id, metrics=some)
    for params in _batches(_pairs(story.params.items()), _OTHERS):
        rest.post(Nothing, "runs/log-batch", run_id=run_id, params=params)
    for tags in _batches(_pairs(story.tags.items()), _OTHERS):
        rest.post(Nothing, "runs/log-batch", run_id=run_id, tags=tags)
    if story.dataset is not None:
        name, sha256 = story.dataset
        source = {"name": name, "digest": sha256[:36], "source_type": "modelpress", "source": f"sha256:{sha256}"}
        rest.post(Nothing, "runs/log-inputs", run_id=run_id, datasets=[{"dataset": source, "tags": []}])


def _upload(rest: Rest, info: _Info, story: Story, blobs: Blobs) -> None:
    """Every file that is not there yet in its full length."""
    there = {item.path: item.file_size for item in _there(rest, info.run_id)}
    root = artifact_path(info.artifact_uri)
    small = {"spec.json": story.spec}
    if text := described(story):
        small[f"{MODEL_FOLDER}/MLmodel"] = text.encode()
    for path, content in small.items():
        if there.get(path) != len(content):
            rest.put_file(f"{root}/{path}", len(content), [content])
    for file in story.files:
        if there.get(file.path) != file.blob.size_bytes:
            rest.put_file(f"{root}/{file.path}", file.blob.size_bytes, blobs.read(file.blob))


def _there(rest: Rest, run_id: str) -> Iterator[_Listed]:
    for folder in ("", MODEL_FOLDER):
        yield from rest.get(_Files, "artifacts/list", run_id=run_id, **({"path": folder} if folder else {})).files


def _register(rest: Rest, info: _Info, name: str, story: Story) -> None:
    """A version of the registered model, one for each run, with where it comes from."""
    if rest.get(_Versions, "model-versions/search", filter=f"run_id = '{info.run_id}'", max_results="1").model_versions:
        return
    try:
        rest.post(Nothing, "registered-models/create", name=name)
    except MlflowRefused as refused:
        if refused.error_code != _EXISTS:
            raise
    tags = _pairs(story.lineage.items())
    source = f"{info.artifact_uri}/{MODEL_FOLDER}"
    rest.post(Nothing, "model-versions/create", name=name, source=source, run_id=info.run_id, tags=tags, description=_origin(story))


def _origin(story: Story) -> str:
    original = story.lineage.get("modelpress.model_sha256", "")
    return f"Compressed by Modelpress ({story.job_id}) from {story.model_name}" + (f", sha256 {original}." if original else ".")


def _pairs(items: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in items]


def _batches(items: Sequence[Item], most: int) -> Iterator[list[Item]]:
    left = iter(items)
    while some := list(islice(left, most)):
        yield some
