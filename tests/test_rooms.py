"""The rooms of the product stand on each other without a circle."""

import re

import grimp
import pytest

from tests.compose import ROOT

PACKAGES = ("api", "cli", "core", "engine", "modelpress", "worker")


@pytest.fixture(scope="module")
def stands_on() -> dict[str, dict[str, str]]:
    """By room (a folder or file right below a package): the rooms that it imports, each with one import that does so."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    found: dict[str, dict[str, str]] = {}
    for module in sorted(graph.modules):
        for imported in sorted(graph.find_modules_directly_imported_by(module)):
            own, other = (".".join(name.split(".")[:2]) for name in (module, imported))
            if own != other and other not in PACKAGES:
                found.setdefault(own, {}).setdefault(other, f"{module} -> {imported}")
    return found


def test_the_graph_is_read(stands_on: dict[str, dict[str, str]]) -> None:
    assert "engine.contract" in stands_on["engine.jobs"]
    assert len(stands_on) > 30


def test_no_circle(stands_on: dict[str, dict[str, str]]) -> None:
    left = {room: set(others) for room, others in stands_on.items()}
    while free := [room for room in {*left, *set().union(*left.values())} if not left.get(room)]:
        left = {room: others - set(free) for room, others in left.items() if room not in free}
        if not left:
            return
    # What imports a circle is none: go on from the other side.
    while outer := [room for room in left if room not in set().union(*left.values())]:
        left = {room: others for room, others in left.items() if room not in outer}
    imports = sorted(stands_on[room][other] for room, others in left.items() for other in others if other in left)
    assert not imports, "rooms import each other in a circle:\n" + "\n".join(imports)


def test_no_module_imports_itself_through_others() -> None:
    graph = grimp.build_graph(*PACKAGES, cache_dir=None, exclude_type_checking_imports=True)
    left = {module: graph.find_modules_directly_imported_by(module) - {module} for module in graph.modules}
    while free := [module for module, others in left.items() if not others & left.keys()]:
        left = {module: others for module, others in left.items() if module not in free}
    while outer := left.keys() - set().union(*left.values()):
        left = {module: others for module, others in left.items() if module not in outer}
    assert sorted(left) == []


def test_no_file_is_too_long_to_read() -> None:
    """350 lines; and figures, specs and events of the engine have types: what has none is counted, and does not become more."""
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    assert len(files) > 300
    assert [f"{path.relative_to(ROOT)}: {lines}" for path in files if (lines := len(path.read_text().splitlines())) > 350] == []
    untyped = re.compile(r"(dict|Mapping)\[str, Any\]")
    found = [
        line for path in files if path.is_relative_to(ROOT / "engine") for line in path.read_text().splitlines() if untyped.search(line)
    ]
    assert 10 < len(found) <= 40, "\n".join(found)
