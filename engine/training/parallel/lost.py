"""The end of another process of the same job, as an error of its own."""

from collections.abc import Iterator
from contextlib import contextmanager

from engine.contract.errors import EngineError

LOST = "child_killed"


@contextmanager
def lost() -> Iterator[None]:
    """Around communication: its errors mean that another process is gone, or the device between them."""
    try:
        yield
    except RuntimeError as error:  # all of torch.distributed's are; gloo's are nothing more special
        raise process_lost(str(error).splitlines()[0][:300]) from error


def process_lost(how: str) -> EngineError:
    """One of several processes ended without a word of its own."""
    return EngineError(
        LOST,
        f"One of the job's processes ended unexpectedly: {how}",
        hint="The job's log may say more; where memory is short, ask for fewer devices.",
        category="transient",
        retryable=True,
    )
