"""What one entry of `include` or `ignore` names: a name, a glob, `re:` and a regular expression, or a type."""

import fnmatch
import re
from collections.abc import Collection

from engine.contract.errors import EngineError


def matches(pattern: str, name: str, types: Collection[str] = ()) -> bool:
    """Whether `pattern` names the thing called `name`, something around it (`block.0` around `block.0.conv`), or one of its `types`.

    `re:` patterns must match a whole name. Raises `pattern_invalid` on a broken one.
    """
    if pattern in types:
        return True
    separator = "/" if "/" in name else "."
    parts = name.split(separator)
    names = [separator.join(parts[:length]) for length in range(1, len(parts) + 1)]
    if pattern.startswith("re:"):
        try:
            expression = re.compile(pattern.removeprefix("re:"))
        except re.error as error:
            raise EngineError("pattern_invalid", f"{pattern!r} is not a regular expression: {error}.") from error
        return any(expression.fullmatch(candidate) for candidate in names)
    return any(fnmatch.fnmatchcase(candidate, pattern) for candidate in names)
