"""Which files are changed, and the tests that have to notice."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Room:
    """Files that are changed, and the tests that stand for them."""

    name: str
    sources: tuple[str, ...]
    tests: tuple[str, ...]

    def files(self) -> list[Path]:
        """The Python files, without those that hold no code that runs."""
        found = {file for pattern in self.sources for file in Path().glob(pattern)}
        return sorted(file for file in found if file.stat().st_size > 200)


ROOMS = (
    Room(
        "measuring",
        ("engine/measuring/*.py", "engine/measuring/examiner/server.py"),
        ("tests/engine/measuring", "tests/engine/jobs/test_pair.py"),
    ),
    Room("metrics", ("engine/metrics/**/*.py",), ("tests/engine/metrics", "tests/engine/heads", "tests/engine/tasks")),
    Room("tasks", ("engine/tasks/*.py",), ("tests/engine/heads", "tests/engine/tasks")),
    Room(
        "quantization",
        ("engine/methods/quantization/*.py",),
        ("tests/engine/methods/quantization",),
    ),
    Room(
        "constraints",
        ("engine/contract/constraints.py", "engine/jobs/verdict.py"),
        ("tests/engine/contract/test_constraints.py", "tests/engine/contract/test_figures.py", "tests/engine/jobs/test_verdict.py"),
    ),
    Room("core_jobs", ("core/jobs/*.py",), ("tests/core/jobs",)),
)
