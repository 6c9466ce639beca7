"""The doorbell: heard when the broker lives, never in the way when it does not."""

import json
import socket
import threading
import time

import pytest
from kombu import Connection

from core import queue
from core.queue import MOST_WAITING, Doorbell
from core.settings import Settings
from tests import servers
from tests.clock import quickest


def _messages(url: str, name: str) -> list[list[str]]:
    """Take every waiting message of a queue and return their arguments."""
    found = []
    with Connection(url) as connection, connection.SimpleQueue(name) as waiting:
        while True:
            try:
                message = waiting.get(timeout=0.05)
            except waiting.Empty:
                return found
            message.ack()
            assert message.headers["task"] == queue.TASK
            found.append(json.loads(message.body)[0])


def _length(valkey: servers.Valkey, name: str) -> int:
    with valkey.client as client:
        return int(client.llen(name))


def test_a_ring_is_one_message_with_the_queues_name(broker_url: str, valkey: servers.Valkey) -> None:
    bell = Doorbell(Settings(broker_url=broker_url))
    begun = time.perf_counter()
    bell.ring("cpu")
    bell.ring("gpu")
    bell.ring("cpu")
    assert time.perf_counter() - begun < 0.1
    servers.wait_until(lambda: _length(valkey, "cpu") == 2 and _length(valkey, "gpu") == 1)
    bell.close()
    assert _messages(broker_url, "cpu") == [["cpu"], ["cpu"]]
    assert _messages(broker_url, "gpu") == [["gpu"]]


def test_messages_do_not_pile_up(broker_url: str, valkey: servers.Valkey) -> None:
    bell = Doorbell(Settings(broker_url=broker_url))
    for _ in range(3 * MOST_WAITING):
        bell.ring("cpu")
        time.sleep(0.001)
    servers.wait_until(lambda: _length(valkey, "cpu") == MOST_WAITING)
    bell.ring("gpu")
    servers.wait_until(lambda: _length(valkey, "gpu") == 1)
    assert _length(valkey, "cpu") == MOST_WAITING
    bell.close()


def test_a_repeated_bell_is_silent_while_a_message_waits(broker_url: str, valkey: servers.Valkey) -> None:
    bell = Doorbell(Settings(broker_url=broker_url))
    bell.ring("cpu", count=4, only_if_silent=True)
    servers.wait_until(lambda: _length(valkey, "cpu") == 4)
    bell.ring("cpu", count=4, only_if_silent=True)
    bell.ring("gpu")
    servers.wait_until(lambda: _length(valkey, "gpu") == 1)
    assert _length(valkey, "cpu") == 4
    bell.close()


def test_without_a_broker_nothing_rings() -> None:
    bell = Doorbell(Settings(broker_url=""))
    bell.ring("cpu")
    bell.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "doorbell"]


@pytest.mark.parametrize("fault", ["nobody listens", "accepts and never answers"])
def test_a_broken_broker_delays_nobody(fault: str) -> None:
    with socket.socket() as trap:
        trap.bind(("127.0.0.1", 0))
        if fault == "accepts and never answers":
            trap.listen(16)
        bell = Doorbell(Settings(broker_url=f"redis://127.0.0.1:{trap.getsockname()[1]}/0"))

        def slowest() -> float:
            seconds = 0.0
            for _ in range(200):
                begun = time.perf_counter()
                bell.ring("cpu")
                seconds = max(seconds, time.perf_counter() - begun)
                time.sleep(0.005)
            return seconds

        assert quickest(slowest, 0.1) < 0.1
        begun = time.perf_counter()
        bell.close()
        assert time.perf_counter() - begun < 2


def test_the_bell_works_again_when_the_broker_is_back(broker_url: str, valkey: servers.Valkey) -> None:
    bell = Doorbell(Settings(broker_url=broker_url))
    bell.ring("cpu")
    servers.wait_until(lambda: _length(valkey, "cpu") == 1)
    valkey.kill()
    bell.ring("cpu")
    time.sleep(0.2)
    valkey.start()
    assert _length(valkey, "cpu") == 0

    def heard() -> bool:
        bell.ring("cpu")
        time.sleep(0.1)
        return _length(valkey, "cpu") > 0

    servers.wait_until(heard, 15)
    bell.close()
