"""What the two clients do in two ways: waiting, and work on files."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")


def pause(seconds: float) -> None:
    """Wait."""
    time.sleep(seconds)


def beside(function: Callable[..., Result], *arguments: Any) -> Result:
    """What `function` returns."""
    return function(*arguments)
