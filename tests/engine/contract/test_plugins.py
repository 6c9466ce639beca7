"""Entries that lie outside the product: found in every process, readable in the sandbox, refused where they would be ignored."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.contract import plugins
from engine.process.launcher import Launcher
from engine.process.request import Request
from engine.process.sandbox.isolation import LAYERS
from tests.engine.process.conftest import run_to_end

ROOT = Path(__file__).parents[3]
SPEC = '''
"""A toy family."""
from typing import Literal
from engine.contract.method import MethodParams

class ToyRotation(MethodParams):
    """Turns nothing."""
    title = "Toy"
    method: Literal["toy_rotation"] = "toy_rotation"
'''
CHILD = """
from engine.contract.events import Log
from engine.contract.method import catalogue

def run(directory, emit):
    emit(Log(message=f"{__file__} {catalogue()['toy_rotation'].available()}"))
    return 0
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    family = tmp_path / "plugin" / "methods" / "toys"
    family.mkdir(parents=True)
    (family / "__init__.py").write_text("")
    (family / "spec.py").write_text(SPEC)
    (family / "toy_rotation.py").write_text(CHILD)
    return tmp_path / "plugin"


def fresh(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {name: value for name, value in os.environ.items() if name != plugins.VARIABLE}
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=ROOT, env={**known, **environment})


WHERE = "from engine.contract.method import catalogue; print(catalogue()['toy_rotation'].implementation.__self__.__module__)"


def test_the_environment_variable_names_a_folder(plugin: Path) -> None:
    assert fresh(WHERE, MODELPRESS_PLUGINS=str(plugin)).stdout.strip() == "engine.methods.toys.spec"
    assert "KeyError" in fresh(WHERE).stderr


def test_an_installed_package_names_itself_by_an_entry_point(plugin: Path, tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    plugin.rename(packages / "our_toys")
    (packages / "our_toys" / "__init__.py").write_text("raise SystemExit('no import is needed to find its folders')")
    metadata = packages / "our_toys-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: our-toys\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[modelpress.plugins]\ntoys = our_toys\n")
    found = fresh(WHERE, PYTHONPATH=str(packages))
    assert found.stdout.strip() == "engine.methods.toys.spec", found.stderr


def test_a_confined_child_with_its_scrubbed_environment_reads_the_plug_in(
    plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(plugins.VARIABLE, str(plugin))
    directory = tmp_path / "job"
    directory.mkdir()
    launcher = Launcher(warm=False)
    try:
        ended = run_to_end(launcher, Request(directory, entry="engine.methods.toys.toy_rotation:run", layers=LAYERS))
    finally:
        launcher.close()
    assert ended.exit.returncode == 0, ended.log
    assert [event.message for event in ended.events] == [f"{plugin / 'methods' / 'toys' / 'toy_rotation.py'} True"]


def test_an_entry_that_is_there_already_is_refused_and_not_ignored(plugin: Path) -> None:
    (plugin / "methods" / "pruning").mkdir()
    refused = fresh("import engine.methods", MODELPRESS_PLUGINS=str(plugin))
    assert "PluginError" in refused.stderr
    assert "methods/pruning, which is already in" in refused.stderr


@pytest.mark.parametrize("place", ["toys", "/nowhere/at/all"])
def test_a_folder_that_is_not_there_is_refused(place: str) -> None:
    refused = fresh("import engine.tasks", MODELPRESS_PLUGINS=place)
    assert f"names {place}, which is not the absolute path of a folder" in refused.stderr
