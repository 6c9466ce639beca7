"""A burst of one client delays itself: the next client is begun after a few, not after all."""

import asyncio
import threading
import time
from functools import partial

from api.front.authentication import Authenticator
from api.front.limits import Limits
from api.front.turns import Turns
from core.access.keys import Principal
from core.errors import Unauthenticated
from core.settings import Settings


def test_the_next_client_does_not_wait_for_a_burst() -> None:
    begun: list[str] = []

    async def run() -> None:
        loop, turns = asyncio.get_running_loop(), Turns(2)
        for number in range(100):
            turns.begin(loop, lambda: "greedy", partial(begun.append, f"greedy {number}"))
        assert begun == ["greedy 0", "greedy 1"]  # where nobody waits, at once
        turns.begin(loop, lambda: "next", partial(begun.append, "next"))
        for _ in range(100):
            await asyncio.sleep(0)

    asyncio.run(run())
    assert begun.index("next") <= 4
    assert [name for name in begun if name != "next"] == [f"greedy {number}" for number in range(100)]


def test_a_round_is_short_and_clients_are_served_in_turn() -> None:
    begun: list[str] = []
    rounds: list[int] = []

    async def run() -> None:
        loop, turns = asyncio.get_running_loop(), Turns(3)
        for client in "abc":
            for _ in range(5):
                turns.begin(loop, lambda client=client: client, partial(begun.append, client))  # type: ignore[misc]
        while len(begun) < 15:
            before = len(begun)
            await asyncio.sleep(0)
            rounds.append(len(begun) - before)

    asyncio.run(run())
    assert max(rounds) <= 3
    assert begun == [*"aaa", *"abc", *"abc", *"bcb", *"cbc"]


def test_what_is_given_up_is_the_last_of_the_client_with_most() -> None:
    begun: list[str] = []
    given_up: list[str] = []

    async def run() -> None:
        loop, turns = asyncio.get_running_loop(), Turns(1)
        for name in ("a1", "a2", "b1", "b2", "b3"):
            turns.begin(loop, lambda name=name: name[0], partial(begun.append, name), partial(given_up.append, name))  # type: ignore[misc]
        assert [turns.give_up_one() for _ in range(2)] == [True, True]
        for _ in range(10):
            await asyncio.sleep(0)
        assert not turns.give_up_one()

    asyncio.run(run())
    assert given_up[0] == "b3"
    assert sorted(begun + given_up) == ["a1", "a2", "b1", "b2", "b3"]


def test_rounds_may_be_apart() -> None:
    begun: list[float] = []

    async def run() -> None:
        loop, turns = asyncio.get_running_loop(), Turns(1, 0.02)
        for _ in range(4):
            turns.begin(loop, lambda: "a", lambda: begun.append(time.monotonic()))
        while len(begun) < 4:
            await asyncio.sleep(0.005)

    asyncio.run(run())
    assert begun[-1] - begun[0] >= 0.055


def test_a_key_is_verified_once_for_all_who_send_it_meanwhile() -> None:
    asked: list[str] = []
    known = Principal("prj_1", None, frozenset())

    def verify(token: str) -> Principal:
        asked.append(token)
        time.sleep(0.1)
        if token == "bad":
            raise Unauthenticated("no")
        return known

    async def run() -> None:
        authenticate = Authenticator(verify, verify, lambda _: None, None, Limits(Settings()))
        assert authenticate.whose(b"Bearer good", "10.0.0.1") == "10.0.0.1"  # nobody asked for the key yet
        answers = await asyncio.gather(*(authenticate(b"Bearer good", "10.0.0.1") for _ in range(50)))
        assert set(answers) == {known}
        assert authenticate.whose(b"Bearer good", "10.0.0.1") == "prj_1"
        refused = await asyncio.gather(*(authenticate(b"Bearer bad", "10.0.0.2") for _ in range(50)), return_exceptions=True)
        assert {type(answer) for answer in refused} == {Unauthenticated}
        assert authenticate.whose(b"Bearer bad", "10.0.0.2") == "10.0.0.2"

    asyncio.run(run())
    assert asked == ["good", "bad"]


def test_a_client_that_leaves_takes_nobody_elses_answer_with_it() -> None:
    entered, go = threading.Event(), threading.Event()

    def verify(_: str) -> Principal:
        entered.set()
        go.wait(5)
        return Principal("prj_1", None, frozenset())

    async def run() -> None:
        authenticate = Authenticator(verify, verify, lambda _: None, None, Limits(Settings()))
        first = asyncio.create_task(authenticate(b"Bearer t", "a"))
        await asyncio.to_thread(entered.wait, 5)
        second = asyncio.create_task(authenticate(b"Bearer t", "a"))
        await asyncio.sleep(0)
        first.cancel()
        go.set()
        assert (await second).project_id == "prj_1"

    asyncio.run(run())
