"""Attacks that cost little time to run: nobody else notices them, and none of them leaves anything behind."""

import signal
import time
from collections.abc import Iterator
from random import Random

import pytest

from tests.attack import bodies, connections, documents, rights
from tests.attack.target import Target
from tests.attack.verdict import Attack, attacked, tried

pytestmark = pytest.mark.slow
QUICK = (
    documents.a_key_that_stands_twice,
    documents.many_unknown_fields,
    documents.many_values,
    bodies.chunks_of_a_byte,
    connections.heads_without_end,
    connections.half_open_connections,
    connections.documents_that_trickle,
    connections.readers_that_do_not_read,
    connections.streams_without_end,
    connections.requests_that_are_broken_off,
    rights.bodies_before_rights,
    rights.one_key_floods,
    rights.a_model_of_tiny_fields,
)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with Target(tmp_path_factory.mktemp("attack")) as running:
        yield running


@pytest.mark.parametrize("attack", QUICK, ids=lambda attack: attack.__name__)
def test_nobody_else_notices(target: Target, attack: Attack) -> None:
    verdicts = tried(target, attack, 0)
    assert not verdicts[-1].wrong, "\n".join(map(str, verdicts))


def test_a_service_that_stalls_is_found_out(target: Target) -> None:
    def stall(target: Target, _: Random) -> None:
        target.process.send_signal(signal.SIGSTOP)
        time.sleep(1)
        target.process.send_signal(signal.SIGCONT)
        target.answers.note(500, {}, "/v1/jobs")

    verdict = attacked(target, stall, 0)
    assert any("/livez took" in wrong for wrong in verdict.wrong)
    assert "500 for /v1/jobs" in verdict.wrong
