"""A job that did not end well says how far it came: phases, steps, series, the uploaded model's figures, and the error."""

from typing import Any

import pytest

from core import jobs
from core.jobs import NewEvent, Point
from engine.contract.partial import PartialReport
from modelpress import Client as Typed
from modelpress.client.errors import JobFailed
from tests.api.conftest import Client, Server, problem


@pytest.fixture
def failed(client: Client, server: Server, spec: dict[str, Any]) -> str:
    """A job that scored its model, finished one step of two, and diverged in the second."""
    step = {"method": "magnitude_pruning", "sparsity": 0.5}
    job = client.job({**spec, "steps": [step, {**step, "sparsity": 0.6}], "name": "<b>lost</b>"})
    claim = server.claim(job["id"])
    events = [
        NewEvent("phase", {"phase": "baseline", "step_index": None}),
        NewEvent("step_started", {"method": "magnitude_pruning", "step_index": 0}),
        NewEvent("step_finished", {"method": "magnitude_pruning", "step_index": 0, "metrics": {"top1": 0.75}}),
        NewEvent("phase", {"phase": "training", "step_index": 1}),
        NewEvent("step_started", {"method": "magnitude_pruning", "step_index": 1}),
    ]
    points = [Point("baseline.top1", 0.9), *(Point("train.loss", 1 / (step + 1), step, step_index=1) for step in range(5))]
    server.report(claim, jobs.Report(events=events, metrics=points))
    with server.service.database.unit_of_work() as session:
        error = jobs.JobError.of("training_diverged", "user", "The loss became <infinite>.", hint="Lower the learning rate.")
        jobs.fail(session, claim.job_id, claim.fence, error)
    return str(job["id"])


def test_the_partial_report_of_a_failed_job(client: Client, failed: str) -> None:
    found = PartialReport.model_validate_json(client.get(f"/v1/jobs/{failed}/report.json").content)
    assert (found.status, found.error.code) == ("failed", "training_diverged")
    assert found.baseline == {"top1": 0.9}
    assert [(step.status, step.metrics) for step in found.steps] == [("finished", {"top1": 0.75}), ("begun", {})]
    assert [(stage.phase, stage.step_index) for stage in found.stages] == [("baseline", None), ("training", 1)]
    assert all(stage.duration_seconds is not None for stage in found.stages)
    (series,) = found.series
    assert (series.name, len(series.points), series.points[4]) == ("train.loss", 5, (4, 0.2))
    assert found.sentence == "The job failed in phase 'training': The loss became <infinite>."
    assert found.spec["steps"][1]["sparsity"] == 0.6


def test_it_is_drawn_and_harmless(client: Client, failed: str) -> None:
    page = client.get(f"/v1/jobs/{failed}/report.html").text
    for words in ("training_diverged", "Lower the learning rate.", "&lt;infinite&gt;", "0.9000", "begun", "<svg"):
        assert words in page, words
    assert "<b>lost" not in page
    text = client.get(f"/v1/jobs/{failed}/report.md").text
    assert "training_diverged" in text
    assert "<b>" not in text


def test_a_job_that_was_cancelled_before_it_began_has_one_too(client: Client, spec: dict[str, Any]) -> None:
    job = client.job(spec)
    problem(client.get(job["urls"]["report"]), 404, "not_found")
    client.post(job["urls"]["cancel"])
    found = client.get(job["urls"]["report"]).json()
    assert (found["object"], found["status"], found["error"], found["stages"], found["baseline"]) == (
        "partial_report",
        "cancelled",
        None,
        [],
        {},
    )
    assert found["sentence"] == "The job was cancelled before it began."


def test_another_project_sees_none(stranger: Client, failed: str) -> None:
    problem(stranger.get(f"/v1/jobs/{failed}/report.json"), 404, "not_found")


def test_the_client_tells_them_apart(client: Client, failed: str) -> None:
    with Typed(client.server.url, api_key=client.token) as typed:
        with pytest.raises(JobFailed):
            typed.jobs.report(failed)
        assert typed.jobs.partial_report(failed).error.code == "training_diverged"
