"""A job's log: dated lines of what its process reports, one for each epoch, between what libraries print."""

from core.jobs import log_line
from engine.contract import events
from engine.contract.errors import JobError
from worker.log_lines import LogLines
from worker.transcript import Transcript


def _transcript() -> Transcript:
    return Transcript([{"index": 0, "method": "train"}, {"index": 1, "method": "dynamic_quantization"}])


def _read(transcript: Transcript, *found: events.Event) -> None:
    for event in found:
        transcript.read_line(event.model_dump_json().encode())


def _log(transcript: Transcript) -> str:
    with transcript.reporting() as report:
        return report.log


def test_a_training_can_be_followed() -> None:
    transcript = _transcript()
    _read(
        transcript,
        events.Phase(phase="training"),
        events.StepStarted(step_index=0, method="train"),
        *(
            events.MetricPoint(step_index=0, name=name, value=value / epoch, step=epoch)
            for epoch in (1, 2)
            for name, value in (("train.loss", 0.5), ("validation.loss", 0.75), ("validation.top1", 1.0))
        ),
        events.Warned(step_index=0, code="no_dense_speedup", message="zeros are computed as well"),
        events.StepFinished(step_index=0, method="train", metrics={"test.top1": 0.975}),
        events.Failed(error=JobError.of("budget_missed", "user", "it is too large")),
    )
    found = [log_line(line) for line in _log(transcript).splitlines()]
    assert [(line["level"], line["message"]) for line in found] == [
        ("info", "phase: training"),
        ("info", "step 1 of 2 begins: train"),
        ("info", "at 1: train.loss 0.5, validation.loss 0.75, validation.top1 1"),
        ("info", "at 2: train.loss 0.25, validation.loss 0.375, validation.top1 0.5"),
        ("warning", "zeros are computed as well [no_dense_speedup]"),
        ("info", "step 1 of 2 is done: test.top1 0.975"),
        ("error", "it is too large [budget_missed]"),
    ]
    assert all(line["at"] is not None and line["at"].endswith("Z") for line in found)


def test_points_that_wait_are_not_lost_at_a_heartbeat() -> None:
    transcript = _transcript()
    _read(transcript, events.MetricPoint(step_index=0, name="train.loss", value=0.5, step=3))
    assert _log(transcript).endswith("info at 3: train.loss 0.5\n")
    assert _log(transcript) == ""


def test_a_series_without_an_axis_has_a_line_for_each_value() -> None:
    lines = LogLines(1)
    said = "".join(lines.of(events.MetricPoint(name="sparsity", value=value)) for value in (0.1, 0.2)) + lines.waiting()
    assert [log_line(line)["message"] for line in said.splitlines()] == ["sparsity 0.1", "sparsity 0.2"]


def test_a_line_begins_where_a_library_stopped_in_the_middle_of_one() -> None:
    transcript = _transcript()
    transcript.hear_log(b"50 %")
    _read(transcript, events.Log(message="half"))
    transcript.hear_log(b"100 %\n")
    transcript.note("ended", "error")
    log = [log_line(line) for line in _log(transcript).splitlines()]
    assert [(line["level"], line["message"]) for line in log] == [(None, "50 %"), ("info", "half"), (None, "100 %"), ("error", "ended")]


def test_many_figures_are_shortened() -> None:
    (line,) = LogLines(1).of(events.StepFinished(step_index=0, method="m", metrics={f"a{n}": 1.0 for n in range(20)})).splitlines()
    assert line.endswith("a7 1, and 12 more")
