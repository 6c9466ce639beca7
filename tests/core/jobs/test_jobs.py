"""The life of a job, on both databases."""

import pytest
from sqlalchemy import func, select, update

from core import jobs
from core.database.clock import db_now
from core.database.tables import Artifact, Job, JobEvent, JobMetric, LedgerEntry
from core.errors import JobAlreadyTerminal, JobNotTerminal, LeaseLost, NotFound, ServiceError
from core.jobs import JobError, NewArtifact, NewEvent, Point, Report
from tests.core.conftest import LEASE_SECONDS, World


def _charges(world: World, job_id: str) -> list[tuple[int, str]]:
    with world.service.database.reader() as session:
        rows = session.execute(select(LedgerEntry.fence, LedgerEntry.ended).where(LedgerEntry.job_id == job_id).order_by(LedgerEntry.fence))
        return [(row.fence, row.ended) for row in rows]


def _expire_lease(world: World, job_id: str) -> None:
    with world.service.database.unit_of_work() as session:
        session.execute(update(Job).where(Job.id == job_id).values(lease_expires_at=db_now(-1)))


def _lose(world: World, claim: jobs.Claim) -> Job | None:
    with world.service.database.unit_of_work() as session:
        return jobs.lose(session, claim.job_id, claim.fence)


def test_a_job_succeeds_with_everything_in_one_transaction(world: World) -> None:
    claim = world.running(name="first", labels={"team": "vision"})
    blob = world.service.blobs.put_bytes(b"the compressed file")
    summary = {"baseline": {"file_bytes": 10}, "result": {"file_bytes": 5}}
    artifact = NewArtifact("model", "onnx", "model.onnx", blob, gzip_bytes=7, step_index=0, metrics={"test.top1": 0.97})
    report = Report(steps=[{"index": 0, "method": "magnitude_pruning", "status": "succeeded", "metrics": {}}], metrics=[Point("a", 1.0)])
    with world.service.database.unit_of_work() as session:
        jobs.finish(session, claim.job_id, claim.fence, outcome="constraints_met", result=summary, artifacts=[artifact], report=report)
    body = jobs.body(world.job(claim.job_id))
    assert body["status"] == "succeeded"
    assert body["outcome"] == "constraints_met"
    assert body["summary"] == {**summary, "settings": []}
    assert body["steps"] == report.steps
    assert body["progress"]["fraction"] == 1.0
    assert body["finished_at"] >= body["started_at"] >= body["created_at"]
    with world.service.database.reader() as session:
        (stored,) = jobs.artifacts(session, world.project_id, claim.job_id)
    assert (stored.blob_sha256, stored.size_bytes, stored.fence, stored.gzip_bytes) == (blob.sha256, blob.size_bytes, claim.fence, 7)
    assert world.events(claim.job_id) == ["created", "started", "succeeded"]
    assert _charges(world, claim.job_id) == [(1, "succeeded")]


def test_nothing_of_a_finish_that_rolls_back_is_seen(world: World) -> None:
    claim = world.running()
    blob = world.service.blobs.put_bytes(b"file")
    with pytest.raises(ZeroDivisionError), world.service.database.unit_of_work() as session:  # noqa: PT012
        jobs.finish(
            session,
            claim.job_id,
            claim.fence,
            outcome=None,
            result={},
            artifacts=[NewArtifact("model", "onnx", "m.onnx", blob)],
            report=Report(metrics=[Point("loss", 1.0)], log="hello"),
        )
        _ = 1 / 0
    assert world.job(claim.job_id).status == "running"
    with world.service.database.reader() as session:
        for table in (Artifact, JobMetric, LedgerEntry):
            owned = select(func.count()).select_from(table).where(table.job_id == claim.job_id)
            assert session.scalar(owned) == 0
    assert _charges(world, claim.job_id) == []


def test_a_claim_carries_what_the_worker_needs(world: World) -> None:
    job = world.submit(limits={"timeout_seconds": 77})
    claim = world.claim(device="cuda:0", isolation={"tier": 1})
    assert claim is not None
    assert (claim.job_id, claim.kind, claim.fence, claim.attempt) == (job.id, "compress", 1, 1)
    assert claim.timeout_seconds == 77
    assert claim.model is not None
    assert claim.dataset is not None
    assert (claim.model.id, claim.model.format, claim.model.blob.sha256) == (world.model.id, "onnx", world.model.sha256)
    assert claim.dataset.id == world.dataset.id
    assert claim.spec["steps"][0]["sparsity"] == 0.5
    assert world.claim() is None
    row = world.job(job.id)
    assert (row.status, row.worker, row.device, row.isolation) == ("running", "w1", "cuda:0", {"tier": 1})


def test_teachers_are_handed_over(world: World, another_world) -> None:
    steps = [{"method": "distillation", "teacher": world.model.id, "epochs": 1}]
    world.submit(steps=steps)
    claim = world.claim()
    assert claim is not None
    assert list(claim.teachers) == [world.model.id]


def test_a_job_of_a_newer_spec_is_left_to_newer_workers(world: World) -> None:
    world.submit()
    assert world.claim(spec_version=jobs.SPEC_VERSION - 1) is None
    assert world.claim(spec_version=jobs.SPEC_VERSION) is not None


def test_a_heartbeat_extends_the_lease_and_writes_the_report(world: World) -> None:
    claim = world.running()
    before = world.job(claim.job_id)
    report = Report(
        phase="training",
        progress={"fraction": 0.42, "step_index": 0, "message": "epoch 3/5", "eta_seconds": 1.5},
        warnings=[{"code": "no_dense_speedup", "message": "…", "step_index": 0}],
        events=[NewEvent("phase", {"phase": "training"}), NewEvent("step_started", {"step_index": 0})],
        metrics=[Point("train.loss", 0.5, step=1, step_index=0), Point("train.loss", float("nan"), step=2, step_index=0)],
        log="line one\nbad \x00 byte\n",
    )
    for _ in range(2):
        with world.service.database.unit_of_work() as session:
            answer = jobs.heartbeat(session, claim.job_id, claim.fence, lease_seconds=2 * LEASE_SECONDS, report=report)
        assert not answer.cancel_requested
    after = world.job(claim.job_id)
    assert after.lease_expires_at is not None
    assert before.lease_expires_at is not None
    assert (after.lease_expires_at - before.lease_expires_at).total_seconds() > LEASE_SECONDS / 2
    assert after.version > before.version
    assert jobs.body(after)["progress"] == {"fraction": 0.42, "step_index": 0, "steps_count": 1, "message": "epoch 3/5", "eta_seconds": 1.5}
    assert after.phase == "training"
    assert world.events(claim.job_id) == ["created", "started", *["phase", "step_started"] * 2]
    with world.service.database.reader() as session:
        series = jobs.metrics(session, claim.job_id, name="train.loss")
        text = b"".join(jobs.log(session, claim.job_id, offset=5))
        assert jobs.marks(session, [claim.job_id])[claim.job_id] == jobs.Mark(after.version, 6, "running")
    assert [(point.seq, point.step, point.value) for point in series] == [(1, 1, 0.5), (2, 2, None), (3, 1, 0.5), (4, 2, None)]
    assert text.decode() == ("line one\nbad � byte\n" * 2)[5:]


def test_a_silent_heartbeat_changes_nothing_that_is_seen(world: World) -> None:
    claim = world.running()
    before = world.job(claim.job_id)
    with world.service.database.unit_of_work() as session:
        jobs.heartbeat(session, claim.job_id, claim.fence, lease_seconds=60)
    assert jobs.body(world.job(claim.job_id)) == jobs.body(before)
    assert world.job(claim.job_id).version == before.version


def test_a_log_ends_at_its_limit_and_says_so_once(world: World) -> None:
    claim = world.running()
    for _ in range(3):
        with world.service.database.unit_of_work() as session:
            jobs.heartbeat(session, claim.job_id, claim.fence, lease_seconds=60, report=Report(log="x" * (3 * 2**20)))
    with world.service.database.reader() as session:
        text = b"".join(jobs.log(session, claim.job_id))
    assert text.count(b"the rest was dropped") == 1
    assert text.startswith(b"x" * 4 * 2**20 + b"\n")
    assert len(text) < 4 * 2**20 + 200


WRITES = {
    "heartbeat": lambda session, job, fence: jobs.heartbeat(session, job, fence, lease_seconds=60, report=Report(log="zombie")),
    "finish": lambda session, job, fence: jobs.finish(session, job, fence, outcome=None, result={}),
    "fail": lambda session, job, fence: jobs.fail(session, job, fence, JobError.of("internal_error", "internal", "zombie")),
    "transient": lambda session, job, fence: jobs.fail(session, job, fence, JobError.of("x", "transient", "zombie")),
    "cancelled": jobs.cancelled,
    "release": jobs.release,
}


@pytest.mark.parametrize("write", WRITES)
def test_a_zombie_can_write_nothing(world: World, write: str) -> None:
    zombie = world.running()
    _expire_lease(world, zombie.job_id)
    assert _lose(world, zombie) is not None
    heir = world.claim()
    assert heir is not None
    assert (heir.job_id, heir.fence) == (zombie.job_id, zombie.fence + 1)
    before = world.job(zombie.job_id)
    with pytest.raises(LeaseLost), world.service.database.unit_of_work() as session:
        WRITES[write](session, zombie.job_id, zombie.fence)
    after = world.job(zombie.job_id)
    assert (after.version, after.event_seq, after.status) == (before.version, before.event_seq, "running")
    assert world.events(zombie.job_id) == ["created", "started", "requeued", "started"]


@pytest.mark.parametrize("write", WRITES)
def test_an_ended_job_takes_no_more_writes(world: World, write: str) -> None:
    claim = world.running()
    with world.service.database.unit_of_work() as session:
        jobs.finish(session, claim.job_id, claim.fence, outcome=None, result={})
    with pytest.raises(LeaseLost), world.service.database.unit_of_work() as session:
        WRITES[write](session, claim.job_id, claim.fence)
    assert world.events(claim.job_id)[-1] == "succeeded"


def test_a_lost_job_is_run_again_until_its_attempts_are_used_up(world: World) -> None:
    claim = world.running(max_attempts=2)
    assert _lose(world, claim) is None, "the lease has not expired"
    _expire_lease(world, claim.job_id)
    assert _lose(world, claim).status == "queued"
    again = world.claim()
    assert again is not None
    assert (again.attempt, again.fence) == (2, 2)
    _expire_lease(world, claim.job_id)
    assert _lose(world, again).status == "failed"
    job = world.job(claim.job_id)
    assert job.error is not None
    assert (job.error["code"], job.error["retryable"]) == ("worker_lost", True)
    assert _charges(world, claim.job_id) == [(1, "lost"), (2, "failed")]


def test_a_lost_job_that_was_to_be_cancelled_is_cancelled(world: World) -> None:
    claim = world.running()
    with world.service.database.unit_of_work() as session:
        jobs.cancel(session, world.project_id, claim.job_id)
    _expire_lease(world, claim.job_id)
    assert _lose(world, claim).status == "cancelled"


def test_transient_failures_are_retried_later_and_others_end_the_job(world: World) -> None:
    claim = world.running(max_attempts=2)
    transient = JobError.of("storage_unavailable", "transient", "the blob store does not answer")
    with world.service.database.unit_of_work() as session:
        assert jobs.fail(session, claim.job_id, claim.fence, transient, retry_delay_seconds=60).status == "queued"
    assert world.claim() is None, "it waits for its time"
    with world.service.database.unit_of_work() as session:
        session.execute(update(Job).values(available_at=db_now(-1)).where(Job.id == claim.job_id))
    again = world.claim()
    assert again is not None
    with world.service.database.unit_of_work() as session:
        assert jobs.fail(session, claim.job_id, again.fence, transient).status == "failed"

    other = world.running()
    with world.service.database.unit_of_work() as session:
        job = jobs.fail(session, other.job_id, other.fence, JobError.of("training_diverged", "user", "the loss is NaN", step_index=0))
    assert (job.status, job.error["code"]) == ("failed", "training_diverged")


def test_a_job_that_was_to_be_cancelled_is_not_tried_again(world: World) -> None:
    claim = world.running()
    with world.service.database.unit_of_work() as session:
        jobs.cancel(session, world.project_id, claim.job_id)
    with world.service.database.unit_of_work() as session:
        job = jobs.fail(session, claim.job_id, claim.fence, JobError.of("child_killed", "transient", "it died"))
    assert (job.status, job.error) == ("cancelled", None)


def test_a_failed_job_may_publish_what_it_found(world: World) -> None:
    claim = world.running()
    blob = world.service.blobs.put_bytes(b"too large")
    with world.service.database.unit_of_work() as session:
        jobs.fail(
            session,
            claim.job_id,
            claim.fence,
            JobError.of("constraints_not_met", "user", "the file has 9 bytes, more than 5"),
            outcome="constraints_not_met",
            result={"result": {"file_bytes": 9}},
            artifacts=[NewArtifact("model", "onnx", "m.onnx", blob)],
        )
    job = world.job(claim.job_id)
    assert (job.status, job.outcome, job.summary) == ("failed", "constraints_not_met", {"result": {"file_bytes": 9}})
    with world.service.database.reader() as session:
        assert len(jobs.artifacts(session, world.project_id, claim.job_id)) == 1


def test_a_released_job_keeps_its_attempts_and_its_checkpoint(world: World) -> None:
    claim = world.running(max_attempts=1)
    blob = world.service.blobs.put_bytes(b"weights")
    for fence in (1, 2):
        with world.service.database.unit_of_work() as session:
            jobs.checkpoint(session, claim.job_id, fence, blob, {"step_index": fence})
        with world.service.database.unit_of_work() as session:
            jobs.release(session, claim.job_id, fence)
        again = world.claim()
        assert again is not None
        assert (again.attempt, again.fence) == (1, fence + 1)
        assert again.checkpoint == blob
        assert again.checkpoint_state == {"step_index": fence}
    assert _charges(world, claim.job_id) == [(1, "released"), (2, "released")]


def test_cancelling_a_queued_job_ends_it_at_once(world: World) -> None:
    job = world.submit()
    for _ in range(2):
        with world.service.database.unit_of_work() as session:
            assert jobs.cancel(session, world.project_id, job.id).status == "cancelled"
    assert world.events(job.id) == ["created", "cancelled"]
    assert world.claim() is None


def test_cancelling_a_running_job_raises_the_flag_once(world: World) -> None:
    claim = world.running()
    for _ in range(2):
        with world.service.database.unit_of_work() as session:
            assert jobs.cancel(session, world.project_id, claim.job_id).status == "running"
    with world.service.database.unit_of_work() as session:
        assert jobs.heartbeat(session, claim.job_id, claim.fence, lease_seconds=60).cancel_requested
    with world.service.database.unit_of_work() as session:
        jobs.cancelled(session, claim.job_id, claim.fence)
    assert world.events(claim.job_id) == ["created", "started", "cancel_requested", "cancelled"]
    assert world.job(claim.job_id).finished_at is not None


def test_nobody_cancels_unasked(world: World) -> None:
    claim = world.running()
    with pytest.raises(LeaseLost), world.service.database.unit_of_work() as session:
        jobs.cancelled(session, claim.job_id, claim.fence)
    assert world.job(claim.job_id).status == "running"


def test_an_ended_job_cannot_be_cancelled(world: World) -> None:
    claim = world.running()
    with world.service.database.unit_of_work() as session:
        jobs.finish(session, claim.job_id, claim.fence, outcome=None, result={})
    with pytest.raises(JobAlreadyTerminal), world.service.database.unit_of_work() as session:
        jobs.cancel(session, world.project_id, claim.job_id)


def test_only_ended_jobs_are_deleted_and_retried(world: World) -> None:
    claim = world.running(labels={"team": "vision"})
    for action in (jobs.delete, lambda session, project, job: jobs.retry(session, world.service.settings, project, job)):
        with pytest.raises(JobNotTerminal), world.service.database.unit_of_work() as session:
            action(session, world.project_id, claim.job_id)
    blob = world.service.blobs.put_bytes(b"file")
    with world.service.database.unit_of_work() as session:
        artifacts = [NewArtifact("model", "onnx", "m.onnx", blob)]
        report = Report(log="x", metrics=[Point("a", 1.0)])
        jobs.finish(session, claim.job_id, claim.fence, outcome=None, result={}, artifacts=artifacts, report=report)
    with world.service.database.unit_of_work() as session:
        retried = jobs.retry(session, world.service.settings, world.project_id, claim.job_id).job
    assert (retried.retry_of, retried.status, retried.spec) == (claim.job_id, "queued", world.job(claim.job_id).spec)
    with world.service.database.unit_of_work() as session:
        jobs.delete(session, world.project_id, claim.job_id)
    with world.service.database.reader() as session:
        for table in (JobEvent, Artifact, JobMetric):
            assert session.scalar(select(func.count()).select_from(table).where(table.job_id == claim.job_id)) == 0
        with pytest.raises(NotFound):
            jobs.get(session, world.project_id, claim.job_id)
    assert world.job(retried.id).status == "queued"


def test_lists_page_by_key_and_filter(world: World) -> None:
    made = [world.submit(name=str(index), labels={"team": "vision" if index % 2 else "audio"}).id for index in range(7)]
    seen: list[str] = []
    after = None
    with world.service.database.reader() as session:
        while True:
            found = jobs.search(session, world.project_id, limit=3, after=after)
            seen += [job.id for job in found.data]
            after = found.next_cursor
            assert found.has_more == (after is not None)
            if after is None:
                break
        assert seen == made[::-1]

        def names(**filters: object) -> list[str | None]:
            return [job.name for job in jobs.search(session, world.project_id, **filters).data]  # type: ignore[arg-type]

        assert names(label=["team:vision"]) == ["5", "3", "1"]
        assert names(label=["team"], limit=2) == ["6", "5"]
        assert names(label=["team:vision", "other"]) == []
        assert names(status=["running"]) == []
        assert names(status=["queued", "running"], limit=1) == ["6"]
        assert names(model_id="mdl_other") == []
        fourth = jobs.get(session, world.project_id, made[3])
        assert names(created_after=fourth.created_at) == ["6", "5", "4"]
        for bad in ({"status": ["done"]}, {"after": "nonsense"}):
            with pytest.raises(ServiceError, match=r"no such status|not a cursor"):
                jobs.search(session, world.project_id, **bad)  # type: ignore[arg-type]


def test_a_project_sees_only_its_own(world: World, another_world) -> None:
    job = world.submit()
    other = another_world("other")
    with other.service.database.reader() as session:
        assert jobs.search(session, other.project_id).data == []
        for read in (jobs.get, jobs.version, jobs.artifacts):
            with pytest.raises(NotFound):
                read(session, other.project_id, job.id)
    for act in (jobs.cancel, jobs.delete):
        with pytest.raises(NotFound), other.service.database.unit_of_work() as session:
            act(session, other.project_id, job.id)
    with pytest.raises(NotFound), other.service.database.unit_of_work() as session:
        jobs.create(session, other.service.settings, other.project_id, world.spec())
