"""What the followers of one job share: no event is missed, none is sent twice, and the database is asked once."""

import asyncio
import threading

from api.live.watch import Frame, News, Topic
from core.jobs import Mark


def _frames(first: int, last: int) -> list[Frame]:
    return [Frame(number, f"event {number}".encode()) for number in range(first, last + 1)]


def _seqs(frames: list[Frame] | None) -> list[int] | None:
    return None if frames is None else [frame.seq for frame in frames]


def test_a_burst_of_followers_reads_the_history_once_and_the_next_not_at_all() -> None:
    calls: list[int] = []
    go = threading.Event()

    def read(seq: int) -> list[Frame]:
        calls.append(seq)
        go.wait(5)
        return _frames(seq + 1, 5)

    async def run() -> None:
        topic = Topic("prj_1", "job_1")
        topic.publish(Mark(1, 5, "running"), News((), b""))
        assert topic.newer(0) is None
        asking = [asyncio.create_task(topic.replayed(0, read)) for _ in range(20)]
        await asyncio.sleep(0)
        go.set()
        assert {tuple(_seqs(frames) or ()) for frames in await asyncio.gather(*asking)} == {(1, 2, 3, 4, 5)}
        assert _seqs(topic.newer(0)) == [1, 2, 3, 4, 5]
        assert _seqs(topic.newer(3)) == [4, 5]
        topic.publish(Mark(2, 7, "running"), News(_frames(6, 7), b""))
        assert _seqs(topic.newer(0)) == [1, 2, 3, 4, 5, 6, 7]

    asyncio.run(run())
    assert calls == [0]


def test_a_history_that_is_older_than_the_mark_is_not_kept() -> None:
    async def run() -> None:
        topic = Topic("prj_1", "job_1")
        topic.publish(Mark(1, 9, "running"), News((), b""))
        assert _seqs(await topic.replayed(0, lambda seq: _frames(1, 5))) == [1, 2, 3, 4, 5]
        assert topic.newer(0) is None  # 6 to 9 stand in the database only

    asyncio.run(run())


def test_an_event_that_both_read_is_sent_once() -> None:
    async def run() -> None:
        topic = Topic("prj_1", "job_1")
        topic.publish(Mark(1, 5, "running"), News((), b""))
        await topic.replayed(0, lambda seq: _frames(1, 6))  # the poller is reading event 6 meanwhile
        topic.publish(Mark(2, 7, "running"), News(_frames(6, 7), b""))
        assert _seqs(topic.newer(0)) == [1, 2, 3, 4, 5, 6, 7]

    asyncio.run(run())


def test_many_who_wait_are_woken_a_few_at_a_time_and_none_is_forgotten() -> None:
    async def run() -> list[int]:
        topic, woken = Topic("prj_1", "job_1", watchers=200), []

        async def follow(number: int) -> None:
            while not topic.polled:
                await topic.next_change()
            woken.append(number)

        following = [asyncio.create_task(follow(number)) for number in range(200)]
        await asyncio.sleep(0)
        topic.publish(Mark(1, 1, "running"), News((), b""))
        counts = []
        while len(woken) < 200:
            before = len(woken)
            await asyncio.sleep(0)
            counts.append(len(woken) - before)
        await asyncio.gather(*following)
        return counts

    counts = asyncio.run(run())
    assert sum(counts) == 200
    assert max(counts) <= 64
