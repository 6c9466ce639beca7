"""The record of a job over HTTP: events as a list and as a stream, log, series."""

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from api.live import sse
from core import jobs
from core.access import keys
from core.jobs import NewEvent, Point, Report
from tests.api.conftest import Client, Server, problem


class Stream:
    """A client of the event stream that has read the frames that came so far."""

    def __init__(self, response: httpx.Response) -> None:
        self.lines = response.iter_lines()

    def frame(self) -> dict[str, Any]:
        """The next frame: its fields, `data` as JSON; a comment is `{"comment": …}`."""
        found: dict[str, Any] = {}
        for line in self.lines:
            if not line:
                if found:
                    return found
                continue
            name, _, value = line.partition(":")
            found[name or "comment"] = json.loads(value) if name == "data" else value.strip()
        raise EOFError

    def events(self) -> Iterator[dict[str, Any]]:
        """The frames with an id."""
        while True:
            frame = self.frame()
            if "id" in frame:
                yield frame
            if frame.get("event") == "end":
                return


@contextlib.contextmanager
def follow(client: Client, job_id: str, headers: dict[str, str] | None = None, query: dict[str, str] | None = None) -> Iterator[Stream]:
    with client.stream("GET", f"/v1/jobs/{job_id}/events/stream", headers=headers or {}, params=query or {}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream"
        yield Stream(response)


def _tell(server: Server, claim: jobs.Claim, *phases: str) -> None:
    server.report(claim, Report(events=[NewEvent("phase", {"phase": phase}) for phase in phases], phase=phases[-1] if phases else None))


def test_events_are_listed_from_the_first(client: Client, server: Server, spec: dict[str, Any]) -> None:
    job = client.job(spec)
    claim = server.claim(job["id"])
    _tell(server, claim, "loading", "pruning")
    found = client.get(job["urls"]["events"]).json()
    assert [event["type"] for event in found["data"]] == ["created", "started", "phase", "phase"]
    assert [event["seq"] for event in found["data"]] == [1, 2, 3, 4]
    assert found["data"][3]["data"] == {"phase": "pruning"}
    assert all(event["id"].startswith("evt_") for event in found["data"])

    first = client.get(job["urls"]["events"], params={"limit": 3}).json()
    assert (first["has_more"], first["next_cursor"]) == (True, first["data"][2]["id"])
    rest = client.get(job["urls"]["events"], params={"after": first["next_cursor"]}).json()
    assert [event["seq"] for event in rest["data"]] == [4]
    assert (rest["has_more"], rest["next_cursor"]) == (False, None)
    only = client.get(job["urls"]["events"], params={"type": ["started", "phase"]}).json()
    assert [event["seq"] for event in only["data"]] == [2, 3, 4]
    problem(client.get(job["urls"]["events"], params={"after": "nonsense"}), 400, "malformed_request")


def test_a_stream_replays_and_follows_to_the_end(client: Client, server: Server, spec: dict[str, Any]) -> None:
    job = client.job(spec)
    with follow(client, job["id"]) as stream:
        first = stream.frame()
        assert (first["retry"], first["event"]) == ("2000", "created")
        assert stream.frame()["data"]["status"] == "queued"
        claim = server.claim(job["id"])
        events = stream.events()
        assert next(events)["event"] == "started"
        _tell(server, claim, "pruning")
        frame = next(events)
        assert (frame["event"], frame["data"]["data"]["phase"], frame["id"]) == ("phase", "pruning", frame["data"]["id"])
        with server.service.database.unit_of_work() as session:
            jobs.finish(session, claim.job_id, claim.fence, outcome="no_constraints", result={})
        assert [frame["event"] for frame in events] == ["succeeded"]
        with pytest.raises(EOFError):
            stream.frame()


def test_progress_is_told_between_events(client: Client, server: Server, spec: dict[str, Any]) -> None:
    job = client.job(spec)
    claim = server.claim(job["id"])
    with follow(client, job["id"]) as stream:
        while stream.frame().get("event") != "progress":
            pass
        server.report(claim, Report(progress={"fraction": 0.25, "message": "epoch 1/4", "step_index": 0, "steps_count": 1}))
        frame = stream.frame()
    assert (frame["event"], "id" in frame) == ("progress", False)
    assert (frame["data"]["progress"]["fraction"], frame["data"]["progress"]["message"]) == (0.25, "epoch 1/4")


@pytest.mark.parametrize("way", ["header", "query", "number"])
def test_a_stream_goes_on_after_the_last_event_that_was_seen(client: Client, server: Server, spec: dict[str, Any], way: str) -> None:
    job = client.job(spec)
    claim = server.claim(job["id"])
    _tell(server, claim, *(f"phase-{number}" for number in range(300)))
    known = client.get(job["urls"]["events"], params={"limit": 5}).json()["data"][-1]
    with server.service.database.unit_of_work() as session:
        jobs.finish(session, claim.job_id, claim.fence, outcome="no_constraints", result={})
    headers = {"Last-Event-ID": known["id"] if way == "header" else str(known["seq"])} if way != "query" else {}
    with follow(client, job["id"], headers, {"after": known["id"]} if way == "query" else {}) as stream:
        seen = [frame["data"]["seq"] for frame in stream.events()]
    assert seen == list(range(6, 304))


def test_a_cursor_that_is_none_is_refused(client: Client, spec: dict[str, Any]) -> None:
    job = client.job(spec)
    answer = client.get(job["urls"]["stream"], headers={"Last-Event-ID": "x"})
    problem(answer, 400, "malformed_request")
    problem(client.get("/v1/jobs/job_unknown/events/stream"), 404, "not_found")


def test_an_idle_stream_is_kept_alive(client: Client, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT_SECONDS", 0.1)
    job = client.job(spec)
    with follow(client, job["id"]) as stream:
        assert next(line for line in stream.lines if line.startswith(":")) == ": still here"


def test_deleting_a_job_ends_its_streams(client: Client, server: Server, spec: dict[str, Any]) -> None:
    job = client.job(spec)
    with follow(client, job["id"]) as stream:
        assert stream.frame()
        server.finish(job["id"])
        assert [frame["event"] for frame in stream.events()][-1] == "succeeded"
    client.delete(job["urls"]["self"])
    problem(client.get(job["urls"]["stream"]), 404, "not_found")


def test_many_clients_of_one_job_see_the_same_and_cost_one_poll(client: Client, server: Server, spec: dict[str, Any]) -> None:
    job = client.job(spec)
    claim = server.claim(job["id"])
    ready = threading.Barrier(41)
    clients = httpx.Limits(max_connections=50)

    def watch(pool: httpx.Client) -> list[int]:
        with pool.stream("GET", job["urls"]["stream"]) as response:
            stream = Stream(response)
            while stream.frame().get("event") != "progress":
                pass
            ready.wait(20)
            return [frame["data"]["seq"] for frame in stream.events()]

    with (
        httpx.Client(base_url=client.base_url, headers=client.headers, limits=clients, timeout=30) as pool,
        ThreadPoolExecutor(40) as threads,
    ):
        watching = [threads.submit(watch, pool) for _ in range(40)]
        ready.wait(20)
        for number in range(5):
            _tell(server, claim, *(f"phase-{number}-{part}" for part in range(100)))
            time.sleep(0.05)
        with server.service.database.unit_of_work() as session:
            jobs.finish(session, claim.job_id, claim.fence, outcome="no_constraints", result={})
        seen = [found.result(timeout=20) for found in watching]
    assert seen == [list(range(3, 504))] * 40


def test_the_log_is_text_that_grows(client: Client, server: Server, spec: dict[str, Any]) -> None:
    job = client.job(spec)
    path = job["urls"]["logs"]
    assert client.get(path).text == ""
    claim = server.claim(job["id"])
    server.report(claim, Report(log="one\ntwo é\n"))
    answer = client.get(path)
    assert (answer.text, answer.headers["content-type"]) == ("one\ntwo é\n", "text/plain; charset=utf-8")
    length = int(answer.headers["content-length"])
    problem(client.get(path, headers={"Range": f"bytes={length}-"}), 416, "range_not_satisfiable")
    server.report(claim, Report(log="three\n"))
    more = client.get(path, headers={"Range": f"bytes={length}-"})
    assert (more.status_code, more.text) == (206, "three\n")
    assert client.get(path, params={"tail": 2}).text == "two é\nthree\n"
    assert client.head(path).headers["content-length"] == str(length + 6)


def test_series_keep_their_shape_when_they_are_thinned_out(client: Client, server: Server, spec: dict[str, Any]) -> None:
    job = client.job(spec)
    claim = server.claim(job["id"])
    loss = [Point("train.loss", 1 / (step + 1), step, step_index=0) for step in range(1000)]
    accuracy = [Point("validation.top1", 0.5, 0, step_index=0), Point("validation.top1", float("nan"), 1, step_index=0)]
    server.report(claim, Report(metrics=[*loss, *accuracy, Point("memory", 5.0, 3, unit="bytes")]))
    found = {series["name"]: series for series in client.get(job["urls"]["metrics"], params={"max_points": 2000}).json()["data"]}
    assert list(found) == ["train.loss", "validation.top1", "memory"]
    assert found["train.loss"]["points"] == [[point.step, point.value] for point in loss]
    assert found["validation.top1"]["points"] == [[0, 0.5], [1, None]]
    assert (found["memory"]["unit"], found["memory"]["step_index"]) == ("bytes", None)
    thin = client.get(job["urls"]["metrics"], params={"max_points": 10, "name": "train.loss"}).json()["data"]
    assert [series["name"] for series in thin] == ["train.loss"]
    points = thin[0]["points"]
    assert 5 <= len(points) <= 10
    assert (points[0], points[-1]) == ([0, 1.0], [999, 0.001])
    steps = [step for step, _ in points[:-1]]
    assert len({later - earlier for earlier, later in itertools.pairwise(steps)}) == 1


def test_a_second_attempt_has_series_of_its_own(client: Client, server: Server, spec: dict[str, Any]) -> None:
    job = client.job(spec)
    for value in (1.0, 2.0):
        claim = server.claim(job["id"])
        server.report(claim, Report(metrics=[Point("train.loss", value, 0)]))
        with server.service.database.unit_of_work() as session:
            jobs.release(session, claim.job_id, claim.fence)
    found = client.get(job["urls"]["metrics"]).json()["data"]
    assert [(series["attempt_fence"], series["points"]) for series in found] == [(1, [[0, 1.0]]), (2, [[0, 2.0]])]


def test_a_stream_ends_with_its_key(server: Server, client: Client, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "KEY_SECONDS", 0.1)
    monkeypatch.setattr(sse, "HEARTBEAT_SECONDS", 0.2)
    job = client.job(spec)
    with server.service.database.reader() as session:
        asking = keys.verify(session, client.token or "")
    with follow(client, job["id"]) as stream:
        for _ in range(4):
            next(line for line in stream.lines if line.startswith(":"))  # it goes on for as long as the key is valid
        with server.service.database.unit_of_work() as session:
            keys.revoke(session, asking.project_id, asking.key_id or "")
        rest = [name for name, _, value in (line.partition(": ") for line in stream.lines if line) if (name, value) == ("event", "end")]
        assert rest == [], "the job has not ended"
