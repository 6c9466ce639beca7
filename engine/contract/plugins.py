"""Folders outside the product whose entries count as if they lay in it: methods, tasks, metrics, formats, architectures of an operator.

A plug-in is a folder with rooms named like the engine's (`tasks/toy.py` is then `engine.tasks.toy`). It is named by the environment
variable `MODELPRESS_PLUGINS` (absolute paths, separated like `PATH`), or by an installed package with an entry point of the group
`modelpress.plugins` whose value is a package that has the rooms as folders. Plug-ins run with the service's rights: only an operator
can name them, never a client. Imports the standard library only.
"""

import functools
import importlib.util
import os
from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path

VARIABLE = "MODELPRESS_PLUGINS"
GROUP = "modelpress.plugins"


class PluginError(Exception):
    """A plug-in was named that cannot be used; nothing runs until the operator has mended it."""


def extended(path: Iterable[str], package: str) -> list[str]:
    """The `__path__` of an engine's package, with the folders of the same room of every plug-in behind its own.

    Args:
        path: The package's own `__path__`.
        package: Its `__name__`, such as `engine.tasks`.

    Raises:
        PluginError: A plug-in cannot be found, or holds an entry that is there already: one of the two would be ignored.
    """
    room = package.rpartition(".")[2]
    places = list(path)
    taken = {entry: place for place in places for entry in _entries(Path(place))}
    for plugin in folders():
        place = plugin / room
        for entry in sorted(_entries(place)):
            if entry in taken:
                raise PluginError(f"The plug-in {plugin} holds {room}/{entry}, which is already in {taken[entry]}; rename the plug-in's.")
            taken[entry] = str(place)
        if place.is_dir():
            places.append(str(place))
    return places


def folders() -> tuple[Path, ...]:
    """The folders of all plug-ins, those of the environment variable first. Raises PluginError where one is not there."""
    return _folders(os.environ.get(VARIABLE, ""))


@functools.cache
def _folders(variable: str) -> tuple[Path, ...]:
    named = [Path(place) for place in variable.split(os.pathsep) if place]
    for place in named:
        if not place.is_absolute() or not place.is_dir():
            raise PluginError(f"{VARIABLE} names {place}, which is not the absolute path of a folder.")
    return tuple(dict.fromkeys([*named, *(place for value in _packages() for place in _folder_of(value))]))


def _packages() -> list[str]:
    return sorted({entry.value for entry in entry_points(group=GROUP)})


def _folder_of(package: str) -> list[Path]:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise PluginError(f"The entry point {package} of the group {GROUP} is no package with folders.")
    return [Path(place) for place in found.submodule_search_locations]


def _entries(place: Path) -> set[str]:
    """Names of the modules and packages directly below a folder."""
    if not place.is_dir():
        return set()
    modules = {entry.stem for entry in place.glob("*.py") if entry.stem != "__init__"}
    return modules | {
        entry.name for entry in place.iterdir() if entry.is_dir() and entry.name.isidentifier() and entry.name != "__pycache__"
    }


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The part of an environment that names plug-ins, for a child process that must see the same."""
    return {VARIABLE: environ[VARIABLE]} if environ.get(VARIABLE) else {}
