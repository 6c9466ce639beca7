"""One client's share: what it may ask a second, and at once; and that nobody else pays for it."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from api.front import limits
from api.front.limits import Buckets, Limits
from core.errors import RateLimited, Unavailable
from core.settings import Settings
from tests.api.conftest import Client, Server, problem


def test_a_bucket_fills_at_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = {"now": 100.0}
    monkeypatch.setattr(limits.time, "monotonic", lambda: now["now"])
    bucket = Buckets(2.0, 4.0)
    for _ in range(4):
        bucket.take("a")
    with pytest.raises(RateLimited) as refused:
        bucket.take("a")
    assert refused.value.retry_after_seconds == pytest.approx(0.5)
    bucket.take("b")
    now["now"] += 0.5
    bucket.take("a")
    with pytest.raises(RateLimited):
        bucket.take("a")
    now["now"] += 1000
    for _ in range(4):
        bucket.take("a")
    with pytest.raises(RateLimited):
        bucket.take("a")


def test_a_key_that_asks_too_often_waits_and_others_do_not(start: Callable[..., Server]) -> None:
    server = start(requests_per_second=10)
    with server.client("greedy") as greedy, server.client("modest") as modest:
        answers = [greedy.get("/v1/models") for _ in range(60)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused
        assert problem(refused[0], 429, "rate_limited")["detail"] == "more than 10 requests a second"
        assert int(refused[0].headers["retry-after"]) == 1
        assert modest.get("/v1/models").status_code == 200
        assert greedy.get("/livez").status_code == 200


def test_whoever_guesses_keys_is_stopped_and_a_valid_key_still_works(start: Callable[..., Server]) -> None:
    server = start()
    client = server.client("innocent")
    assert client.get("/v1/models").status_code == 200
    with Client(server, "mp_" + "0" * 26 + "_" + "A" * 43) as guesser:
        statuses = [guesser.get("/v1/models").status_code for _ in range(300)]
        assert set(statuses) == {401, 429}
    assert client.get("/v1/models").status_code == 200
    client.close()


def test_a_project_has_a_share_of_what_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DOWNLOAD_WAIT_SECONDS", 0.01)

    async def run() -> None:
        share = Limits(Settings(max_requests_at_once=2))
        async with share.under_way("a") as first, share.under_way("a") as second:
            with pytest.raises(RateLimited):
                async with share.under_way("a"):
                    raise AssertionError("a third one was let in")
            async with share.under_way("b") as other:
                first.add_document(limits.PROJECT_DOCUMENT_BYTES - 1)
                with pytest.raises(RateLimited):
                    second.add_document(2)
                other.add_document(limits.PROJECT_DOCUMENT_BYTES)
                async with share.under_way("c") as last:
                    with pytest.raises(Unavailable):
                        last.add_document(limits.PROJECT_DOCUMENT_BYTES)
            uploads = [first.upload() for _ in range(limits.UPLOADS)]
            for upload in uploads:
                upload.__enter__()
            with pytest.raises(RateLimited), second.upload():
                raise AssertionError("one upload too many was let in")
            for upload in uploads:
                upload.__exit__(None, None, None)
            with second.upload():
                pass
            downloads = [first.download() for _ in range(limits.DOWNLOADS)]
            for download in downloads:
                await download.__aenter__()
            with pytest.raises(RateLimited):
                async with second.download():
                    raise AssertionError("one download too many was let in")
            for download in downloads:
                await download.__aexit__(None, None, None)
        async with share.under_way("a") as fresh:
            fresh.add_document(limits.PROJECT_DOCUMENT_BYTES)

    asyncio.run(run())


def test_a_burst_of_one_project_is_worked_on_a_few_at_a_time() -> None:
    async def run() -> None:
        share = Limits(Settings())
        working: list[Any] = []
        most = 0

        async def ask() -> None:
            nonlocal most
            async with share.under_way("a") as held:
                working.append(held)
                most = max(most, len(working))
                await asyncio.sleep(0)
                working.remove(held)
                held.end_turn()
                await asyncio.sleep(0.01)

        await asyncio.gather(*(ask() for _ in range(100)))
        assert most == limits.TURNS

    asyncio.run(run())


def test_waiting_for_a_job_keeps_nobody_from_asking(client: Client, spec: dict[str, Any]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    job = client.job(spec)
    etag = client.get(job["urls"]["self"]).headers["etag"]
    with ThreadPoolExecutor(2 * limits.TURNS) as pool:
        waiting = [
            pool.submit(client.get, job["urls"]["self"], headers={"Prefer": "wait=3", "If-None-Match": etag})
            for _ in range(2 * limits.TURNS)
        ]
        assert client.get("/v1/models", timeout=2).status_code == 200
        client.post(job["urls"]["cancel"])
        assert {answer.result().status_code for answer in waiting} == {200}
