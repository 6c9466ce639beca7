"""Models and datasets: inspected by a hidden job, in use while a job reads them, gone when deleted."""

import pytest
from sqlalchemy import select, update

from core import jobs
from core.database.tables import Job, Model, Project
from core.errors import DatasetInvalid, DatasetRequired, ModelInvalid, NotFound, QuotaExceeded, ResourceInUse, SpecInvalid
from core.jobs import JobError, NewArtifact
from core.library import artifacts, datasets, models
from tests.core.conftest import LEASE_SECONDS, World


def _upload(world: World, content: bytes = b"bytes") -> Model:
    blob = world.service.blobs.put_bytes(content)
    with world.service.database.unit_of_work() as session:
        return models.create(
            session, world.service.settings, world.project_id, name="new", format="onnx", metadata={"task": "classification"}, blob=blob
        )


def _model(world: World, model_id: str) -> Model:
    with world.service.database.reader() as session:
        return models.get(session, world.project_id, model_id)


def test_an_upload_is_inspected_and_the_result_stands_on_it(world: World) -> None:
    model = _upload(world)
    assert models.body(_model(world, model.id))["status"] == "inspecting"
    claim = world.claim("inspect")
    assert claim is not None
    assert (claim.kind, claim.model.id, claim.model.metadata) == ("inspect_model", model.id, {"task": "classification"})
    assert claim.timeout_seconds == world.service.settings.inspection_seconds == 300
    found = {"params_count": 5, "trainable": True, "signature": {"inputs": [], "outputs": []}, "layers": [{"name": "a"}]}
    with world.service.database.unit_of_work() as session:
        jobs.finish(session, claim.job_id, claim.fence, outcome=None, result=found)
    body = models.body(_model(world, model.id))
    assert (body["status"], body["params_count"], body["trainable"]) == ("ready", 5, True)
    assert "layers" not in body
    assert _model(world, model.id).inspection == found


def test_inspections_are_hidden(world: World) -> None:
    _upload(world)
    with world.service.database.reader() as session:
        hidden = session.scalars(select(Job.id).where(Job.kind == "inspect_model").order_by(Job.id.desc())).first()
        assert hidden is not None
        assert jobs.search(session, world.project_id).data == []
        for read in (jobs.get, jobs.version, jobs.artifacts):
            with pytest.raises(NotFound):
                read(session, world.project_id, hidden)


def test_what_cannot_be_parsed_cannot_be_used(world: World) -> None:
    model = _upload(world)
    claim = world.claim("inspect")
    assert claim is not None
    with world.service.database.unit_of_work() as session:
        error = JobError.of("unsafe_format", "user", "a pickle is not a model", hint="save it as safetensors")
        jobs.fail(session, claim.job_id, claim.fence, error)
    body = models.body(_model(world, model.id))
    assert (body["status"], body["error"]["code"]) == ("invalid", "unsafe_format")
    with pytest.raises(ModelInvalid, match="a pickle is not a model"):
        world.submit(model=model.id)


def test_jobs_are_taken_before_the_inspection_is_done(world: World) -> None:
    assert world.submit(model=_upload(world).id).status == "queued"


def test_a_lost_inspection_is_repeated_and_then_fails(world: World) -> None:
    model = _upload(world)
    for _ in range(3):
        claim = world.claim("inspect", lease_seconds=-1)
        assert claim is not None
        with world.service.database.unit_of_work() as session:
            jobs.lose(session, claim.job_id, claim.fence)
    assert world.claim("inspect") is None
    assert models.body(_model(world, model.id))["error"]["code"] == "worker_lost"


def test_an_inspection_that_found_no_room_is_repeated_for_the_next_job(world: World) -> None:
    model = _upload(world)
    claim = world.claim("inspect")
    assert claim is not None
    error = JobError.of("out_of_disk", "resource", "The disk is full.", hint="Free space, then retry.", retryable=True)
    with world.service.database.unit_of_work() as session:
        jobs.fail(session, claim.job_id, claim.fence, error)
    assert models.body(_model(world, model.id))["error"]["code"] == "out_of_disk"
    assert world.claim("inspect") is None
    for _ in range(2):
        assert world.submit(model=model.id).status == "queued"
    body = models.body(_model(world, model.id))
    assert (body["status"], body["error"]) == ("inspecting", None)
    claim = world.claim("inspect")
    assert claim is not None
    assert claim.model.id == model.id
    assert world.claim("inspect") is None, "one inspection serves both jobs"
    with world.service.database.unit_of_work() as session:
        jobs.finish(session, claim.job_id, claim.fence, outcome=None, result={"layers": []})
    assert _model(world, model.id).status == "ready"


@pytest.mark.parametrize("which", ["model", "dataset", "teacher"])
def test_inputs_are_in_use_until_their_job_ends(world: World, which: str) -> None:
    teacher = _upload(world)
    claim = world.claim("inspect")
    with world.service.database.unit_of_work() as session:
        jobs.finish(session, claim.job_id, claim.fence, outcome=None, result={})
    job = world.submit(steps=[{"method": "distillation", "teacher": teacher.id, "epochs": 1}])
    row_id = {"model": world.model.id, "dataset": world.dataset.id, "teacher": teacher.id}[which]
    module = datasets if which == "dataset" else models
    with pytest.raises(ResourceInUse, match=job.id), world.service.database.unit_of_work() as session:
        module.delete(session, world.project_id, row_id)
    with world.service.database.unit_of_work() as session:
        jobs.cancel(session, world.project_id, job.id)
        module.delete(session, world.project_id, row_id)
    with world.service.database.reader() as session:
        with pytest.raises(NotFound):
            module.get(session, world.project_id, row_id)
        assert row_id not in [row.id for row in module.search(session, world.project_id).data]
    with pytest.raises(NotFound), world.service.database.unit_of_work() as session:
        jobs.retry(session, world.service.settings, world.project_id, job.id)


def test_deleting_an_upload_ends_its_inspection(world: World) -> None:
    model = _upload(world)
    with world.service.database.unit_of_work() as session:
        models.delete(session, world.project_id, model.id)
    assert world.claim("inspect") is None
    model = _upload(world)
    claim = world.claim("inspect")
    assert claim is not None
    with world.service.database.unit_of_work() as session:
        models.delete(session, world.project_id, model.id)
    with world.service.database.unit_of_work() as session:
        assert jobs.should_stop(session, claim.job_id, claim.fence)
        jobs.fail(session, claim.job_id, claim.fence, JobError.of("worker_lost", "transient", "it died"))
    assert world.claim("inspect") is None
    with pytest.raises(NotFound):
        _model(world, model.id)


def test_projects_do_not_see_each_others_inputs(world: World, another_world) -> None:
    other = another_world("other")
    blob = world.service.blobs.put_bytes(b"artifact")
    claim = world.running()
    with world.service.database.unit_of_work() as session:
        jobs.finish(
            session, claim.job_id, claim.fence, outcome=None, result={}, artifacts=[NewArtifact("report", "json", "report.json", blob)]
        )
        (artifact,) = jobs.artifacts(session, world.project_id, claim.job_id)
    with world.service.database.reader() as session:
        assert artifacts.content(session, world.project_id, artifact.id)[1] == blob
        assert artifacts.report(session, world.project_id, claim.job_id) == blob
        for read, row_id in (
            (models.get, world.model.id),
            (models.content, world.model.id),
            (datasets.get, world.dataset.id),
            (datasets.content, world.dataset.id),
            (artifacts.get, artifact.id),
            (artifacts.content, artifact.id),
            (artifacts.report, claim.job_id),
        ):
            with pytest.raises(NotFound):
                read(session, other.project_id, row_id)
    with pytest.raises(NotFound), world.service.database.unit_of_work() as session:
        jobs.create(session, world.service.settings, other.project_id, {**other.spec(), "dataset": world.dataset.id})


def test_a_promoted_artifact_outlives_its_job_and_knows_it(world: World) -> None:
    claim = world.running()
    blob = world.service.blobs.put_bytes(b"compressed")
    with world.service.database.unit_of_work() as session:
        jobs.finish(
            session, claim.job_id, claim.fence, outcome=None, result={}, artifacts=[NewArtifact("model", "onnx", "model.onnx", blob)]
        )
        (artifact,) = jobs.artifacts(session, world.project_id, claim.job_id)
    with world.service.database.unit_of_work() as session:
        promoted = models.promote(session, world.service.settings, artifact, name="small")
    with world.service.database.unit_of_work() as session:
        jobs.delete(session, world.project_id, claim.job_id)
    body = models.body(_model(world, promoted.id))
    assert body["lineage"] == {"artifact_id": artifact.id, "job_id": claim.job_id, "model_id": world.model.id}
    assert (body["name"], body["format"], body["sha256"]) == ("small", "onnx", blob.sha256)
    inspection = world.claim("inspect", lease_seconds=LEASE_SECONDS)
    assert inspection is not None
    assert inspection.model is not None
    assert world.service.blobs.read_all(inspection.model.blob) == b"compressed"


def test_what_an_inspection_found_is_held_against_the_spec(world: World) -> None:
    with world.service.database.unit_of_work() as session:
        session.execute(
            update(Model).where(Model.id == world.model.id).values(inspection={"trainable": False, "untrainable_reason": "Loop"})
        )
        dataset = datasets.get(session, world.project_id, world.dataset.id)
        dataset.inspection = {"labels": False}
    accuracy = {"accuracy": {"metric": "top1", "max_drop": 0.01}}
    steps = [{"method": "magnitude_pruning", "sparsity": 0.5}, {"method": "distillation", "alpha": 0.5, "epochs": 1}]
    with pytest.raises(SpecInvalid) as error:
        world.submit(steps=steps, evaluation={"metrics": ["agreement", "top1"]}, constraints=accuracy)
    found = {(problem.pointer, problem.code) for problem in error.value.errors}
    assert found == {
        ("/steps/1", "labels_required"),
        ("/evaluation/metrics/1", "labels_required"),
        ("/constraints/accuracy/metric", "labels_required"),
        ("/steps/0", "unsupported_operator"),
        ("/steps/1", "unsupported_operator"),
    }
    assert world.submit(steps=[{"method": "static_quantization"}]).status == "queued"


def test_every_problem_of_a_spec_is_said_with_its_place(world: World) -> None:
    with pytest.raises(SpecInvalid) as error:
        world.submit(steps=[{"method": "magnitude_pruning", "sparsity": 50, "sparsitty": 1}])
    assert {problem.pointer for problem in error.value.errors} >= {"/steps/0/sparsity", "/steps/0/sparsitty"}
    with pytest.raises(DatasetRequired):
        world.submit(dataset=None, steps=[{"method": "static_quantization"}])
    with pytest.raises(NotFound) as missing:
        world.submit(model="mdl_0000000000000000000000000")
    assert missing.value.errors[0].pointer == "/model"
    with world.service.database.unit_of_work() as session:
        dataset = datasets.get(session, world.project_id, world.dataset.id)
        dataset.status, dataset.error = "invalid", {"message": "labels out of range"}
    with pytest.raises(DatasetInvalid, match="labels out of range"):
        world.submit()


def test_quotas(world: World) -> None:
    with world.service.database.unit_of_work() as session:
        project = session.get_one(Project, world.project_id)
        project.max_queued_jobs = 2
        project.max_stored_bytes = world.model.size_bytes + world.dataset.size_bytes + 10
    world.submit()
    world.submit()
    with pytest.raises(QuotaExceeded):
        world.submit()
    assert world.claim() is not None
    world.submit()
    _upload(world, b"ten bytes.")
    with pytest.raises(QuotaExceeded):
        _upload(world, b"x")
