import hashlib
import time
from pathlib import Path

from engine.contract.events import Event
from engine.contract.report import ReportedWarning
from engine.jobs.recorder import PROGRESS_SECONDS, Voice


def test_progress_is_told_now_and_then_and_at_the_end() -> None:
    heard: list[Event] = []
    voice = Voice(heard.append)
    for step in range(1000):
        voice.progress(step / 1000, "")
    voice.progress(1.0, "done")
    assert len(heard) < 20
    assert heard[-1].fraction == 1  # type: ignore[union-attr]
    time.sleep(PROGRESS_SECONDS)
    voice.progress(0.5, "again")
    assert heard[-1].message == "again"  # type: ignore[union-attr]


def test_the_time_left_follows_from_the_share_that_is_done() -> None:
    heard: list[Event] = []
    voice = Voice(heard.append)
    time.sleep(0.2)
    voice.progress(0.5, "")
    elapsed = voice.seconds
    assert 0.2 <= heard[-1].eta_seconds <= elapsed  # type: ignore[union-attr, operator]


def test_warnings_and_artifacts_are_remembered(tmp_path: Path) -> None:
    heard: list[Event] = []
    voice = Voice(heard.append)
    voice.warn("code", "message", number=1)
    (tmp_path / "file").write_bytes(b"abc")
    voice.artifact(tmp_path / "file", kind="model", format="onnx", metrics={"test.top1": 1.0})
    assert voice.warnings == [ReportedWarning(code="code", message="message", details={"number": 1})]
    assert voice.artifacts[0].sha256 == hashlib.sha256(b"abc").hexdigest()
    assert [event.type for event in heard] == ["warning", "artifact"]
