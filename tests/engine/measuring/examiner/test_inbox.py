"""Notes about requests, which arrive while one is answered."""

import io
import os
from pathlib import Path

from engine.measuring.examiner.inbox import Inbox
from engine.measuring.examiner.messages import DigestRequest, Waits
from tests.servers import wait_until

REQUEST = DigestRequest(file=Path("weights"), format="safetensors")


def test_requests_come_in_order_and_notes_are_none() -> None:
    other = REQUEST.model_copy(update={"format": "pt"})
    lines = [item.model_dump_json() + "\n" for item in (REQUEST, Waits(answered=0), other, Waits(answered=1))]
    inbox = Inbox(io.StringIO("".join(lines)))
    assert [inbox.request(line) for line in inbox.lines()] == [REQUEST, other]


def test_a_sender_waits_for_the_answer_that_its_note_was_about() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream, os.fdopen(reading) as source:
        inbox = Inbox(source)

        def note(answered: int) -> None:
            print(Waits(answered=answered).model_dump_json(), file=stream, flush=True)

        assert not inbox.sender_waits()
        note(0)
        wait_until(inbox.sender_waits)
        inbox.answered()
        assert not inbox.sender_waits()
        note(0)  # late
        print(REQUEST.model_dump_json(), file=stream, flush=True)
        assert inbox.request(next(inbox.lines())) == REQUEST
        assert not inbox.sender_waits()
        note(1)
        wait_until(inbox.sender_waits)
        stream.close()
        assert list(inbox.lines()) == []
