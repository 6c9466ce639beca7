"""The runtime package: what it stands on, what it is shipped in, and what it refuses."""

import ast
import fnmatch
import hashlib
import json
import sys
import tomllib
from pathlib import Path

import pytest

import modelpress.runtime
from modelpress.runtime import ArtifactError, Manifest, load
from tests.modelpress.alone import ALLOWED, run_alone

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "modelpress" / "runtime"


def test_it_imports_numpy_and_onnxruntime_alone() -> None:
    allowed = {*sys.stdlib_module_names, *ALLOWED}
    found = {}
    for path in FOLDER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [item.name for item in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in names:
                if name.split(".")[0] not in allowed and not name.startswith("modelpress.runtime"):
                    found[name] = path.name
    assert found == {}


def test_every_kind_is_a_module_that_loads_with_nothing_else_installed(tmp_path: Path) -> None:
    code = """
import importlib, sys
import modelpress.runtime
for name in modelpress.runtime.KINDS.values():
    assert callable(importlib.import_module(f"modelpress.runtime.{name}").load), name
import numpy, onnxruntime
for name in ("torch", "onnx", "pydantic", "engine", "core"):
    try:
        importlib.import_module(name)
    except ImportError:
        continue
    raise SystemExit(f"{name} can be imported here")
print(len(modelpress.runtime.KINDS))
"""
    assert run_alone(code, tmp_path) == f"{len(modelpress.runtime.KINDS)}\n"


def test_it_is_in_the_wheel() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    include = settings["tool"]["setuptools"]["packages"]["find"]["include"]
    for package in ("modelpress", "modelpress.runtime"):
        assert any(fnmatch.fnmatch(package, pattern) for pattern in include)
        assert (ROOT / package.replace(".", "/") / "__init__.py").exists()
    extra = settings["project"]["optional-dependencies"]["runtime"]
    assert sorted(item.split(">=")[0] for item in extra) == sorted(ALLOWED)


def write(folder: Path, **changes: object) -> Path:
    (folder / "a.onnx").write_bytes(b"a")
    digest = hashlib.sha256(b"a").hexdigest()
    document = {"modelpress": "kind", "version": 1, "files": {"a": {"name": "a.onnx", "sha256": digest}}, **changes}
    path = folder / "artifact.json"
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))
    return path


def test_a_manifest_names_the_files_beside_it(tmp_path: Path) -> None:
    manifest = Manifest.read(write(tmp_path))
    assert (manifest.kind, manifest.file("a").name) == ("kind", "a.onnx")
    with pytest.raises(ArtifactError, match="names no file 'b'"):
        manifest.file("b")
    (tmp_path / "a.onnx").write_bytes(b"b")
    with pytest.raises(ArtifactError, match=r"a\.onnx is not the file .* sha256"):
        manifest.file("a")
    (tmp_path / "a.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"a\.onnx is missing"):
        manifest.file("a")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"modelpress": None}, "no manifest"),
        ({"version": 2}, "version 2"),
        ({"modelpress": "what"}, "of the kind 'what'"),
    ],
)
def test_what_is_no_artifact_of_this_version_is_refused(tmp_path: Path, changes: dict[str, object], match: str) -> None:
    with pytest.raises(ArtifactError, match=match):
        load(write(tmp_path, **changes))


def test_no_file_outside_of_the_folder_is_read(tmp_path: Path) -> None:
    manifest = Manifest.read(write(tmp_path, files={"a": {"name": "../a.onnx", "sha256": ""}}))
    with pytest.raises(ArtifactError, match="outside of its folder"):
        manifest.file("a")


def test_a_missing_and_a_broken_document_say_so(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"there is no file b\.json"):
        load(tmp_path / "b.json")
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(ArtifactError, match="not JSON"):
        load(tmp_path / "b.json")
