import hashlib
import time
from pathlib import Path

from engine.contract.events import Event
from engine.contract.report import ReportedWarning
from engine.jobs.recorder import PROGRESS_SECONDS, Recorder


def test_progress_is_told_now_and_then_and_at_the_end() -> None:
    heard: list[Event] = []
    recorder = Recorder(heard.append)
    for step in range(1000):
        recorder.progress(step / 1000, "")
    recorder.progress(1.0, "done")
    assert len(heard) < 20
    assert heard[-1].fraction == 1  # type: ignore[union-attr]
    time.sleep(PROGRESS_SECONDS)
    recorder.progress(0.5, "again")
    assert heard[-1].message == "again"  # type: ignore[union-attr]


def test_the_time_left_follows_from_the_share_that_is_done() -> None:
    heard: list[Event] = []
    recorder = Recorder(heard.append)
    time.sleep(0.2)
    recorder.progress(0.5, "")
    elapsed = recorder.seconds
    assert 0.2 <= heard[-1].eta_seconds <= elapsed  # type: ignore[union-attr, operator]


def test_warnings_and_artifacts_are_remembered(tmp_path: Path) -> None:
    heard: list[Event] = []
    recorder = Recorder(heard.append)
    recorder.warn("code", "message", number=1)
    (tmp_path / "file").write_bytes(b"abc")
    recorder.artifact(tmp_path / "file", kind="model", format="onnx", metrics={"test.top1": 1.0})
    assert recorder.warnings == [ReportedWarning(code="code", message="message", details={"number": 1})]
    assert recorder.artifacts[0].sha256 == hashlib.sha256(b"abc").hexdigest()
    assert [event.type for event in heard] == ["warning", "artifact"]
