"""How tests are divided among the processes of `make test`: by files, the long ones first."""

from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

ROOT = Path(__file__).resolve().parents[1]
LONG = ("tests/service/", "tests/faults/", "tests/attack/", "tests/worker/", "tests/cli/", "tests/engine/jobs/")
"""Files that wait for programs and hold few tests: one of them, begun last, would be waited for by all other processes."""

SHARED = {"service_url": "the service", "plugged: Client": "the service with plug-ins"}
"""What a file says that looks at a running service, and the service that it shares with others."""


class Division(LoadFileScheduling):  # type: ignore[misc]  # without types of its own
    """A process takes whole files, and one process all that look at the same running service."""

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False
        self._scopes: dict[str, str] = {}

    def _split_scope(self, nodeid: str) -> str:
        file = str(super()._split_scope(nodeid))
        if file not in self._scopes:
            text = (ROOT / file).read_text()
            self._scopes[file] = next((service for words, service in SHARED.items() if words in text), file)
        return self._scopes[file]


def long_ones_first(items: list[pytest.Item]) -> None:
    """Sort tests in place: files that wait for programs, then those with the most tests; each file stays together, in its order."""
    counts: dict[str, int] = {}
    for item in items:
        counts[_file(item)] = counts.get(_file(item), 0) + 1

    def rank(item: pytest.Item) -> tuple[int, int, str]:
        file = _file(item)
        return (next((place for place, room in enumerate(LONG) if file.startswith(room)), len(LONG)), -counts[file], file)

    items.sort(key=rank)


def _file(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]
