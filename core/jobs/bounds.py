"""How long the record of one job may become, whatever its child writes: what is left out is counted and stated."""

from collections.abc import Mapping, Sequence
from typing import Any

from core.database.serialization import to_json
from core.jobs.records import NewEvent
from engine.contract.errors import JobError

MAX_EVENTS = 10_000
"""Events that workers report of one job, over all its attempts; how it ends is always written down."""
MAX_POINTS = 200_000
"""Points of one job's series."""
MAX_WARNINGS = 200
MAX_WARNING_CHARACTERS = 64 * 1024
"""One warning with its details."""
MAX_WARNINGS_CHARACTERS = 256 * 1024
"""All warnings of a job together."""
MAX_EVENT_CHARACTERS = 16 * 1024
MAX_MESSAGE_CHARACTERS = 10_000
MAX_DETAILS_CHARACTERS = 64 * 1024
_SHORT_CHARACTERS = 1000


def bounded_event(event: NewEvent) -> NewEvent:
    """The event, or what is short of it."""
    return NewEvent(event.type, shortened(event.data, MAX_EVENT_CHARACTERS))


def bounded_warnings(warnings: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first warnings, each bounded; where some are left out, the last one states how many."""
    kept: list[dict[str, Any]] = []
    characters = 0
    for warning in warnings[:MAX_WARNINGS]:
        short = shortened(warning, MAX_WARNING_CHARACTERS)
        characters += len(to_json(short))
        if characters > MAX_WARNINGS_CHARACTERS:
            break
        kept.append(short)
    if len(kept) == len(warnings):
        return kept
    kept = kept[: MAX_WARNINGS - 1]
    message = f"{len(warnings) - len(kept)} further warnings are not kept."
    return [*kept, {"code": "more_warnings", "message": message, "step_index": None, "details": {}}]


def bounded_error(error: JobError) -> JobError:
    """The error, with a message and details that a page can show."""
    changes = {"message": error.message[:MAX_MESSAGE_CHARACTERS], "details": shortened(error.details, MAX_DETAILS_CHARACTERS)}
    return error.model_copy(update=changes)


def shortened(values: Mapping[str, Any], most_characters: int) -> dict[str, Any]:
    """The object as it is, or, where its JSON has more characters, only what is short in it and how long the whole was."""
    length = len(to_json(values))
    if length <= most_characters:
        return dict(values)
    short: dict[str, Any] = {}
    room = most_characters
    for name, value in values.items():
        shown = value[:_SHORT_CHARACTERS] if isinstance(value, str) else value
        takes = min(len(name), _SHORT_CHARACTERS) + len(to_json(shown))
        if takes <= min(room, 3 * _SHORT_CHARACTERS):
            room -= takes
            short[name[:_SHORT_CHARACTERS]] = shown
    return {**short, "omitted_characters": length}
