"""Every code that the source can raise is explained: under the `type` of its problem, and in docs/errors.md."""

import ast
from http import HTTPStatus
from pathlib import Path

import pytest

from api.codes.catalogue import entries
from api.codes.jobs import JOBS
from api.codes.requests import REQUESTS
from tests.api.conftest import Client

ROOT = Path(__file__).parents[2]
RAISES = {"EngineError": 0, "UnreadableReport": 0, "Refused": 0, "JobError.of": 0, "problems.render": 2, "self.refuse": 1, "self._raise": 1}
"""Calls whose argument of this number is a code."""


def codes_of_the_source() -> dict[str, str]:
    """Code → a file that raises it."""
    found: dict[str, str] = {}
    for room in ("api", "core", "engine", "worker"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and (place := RAISES.get(ast.unparse(node.func))) is not None and len(node.args) > place:
                    strings = [item for item in ast.walk(node.args[place]) if isinstance(item, ast.Constant)]
                    found |= {
                        item.value: str(path)
                        for item in strings
                        if isinstance(item.value, str) and item.value.isidentifier() and item.value != "code"
                    }
                if isinstance(node, ast.ClassDef) and any("Error" in ast.unparse(base) for base in node.bases):
                    found |= {str(item.value.value): str(path) for item in node.body if _is_code(item)}
    return found


def _is_code(item: ast.stmt) -> bool:
    target = item.targets[0] if isinstance(item, ast.Assign) else getattr(item, "target", None)
    return isinstance(target, ast.Name) and target.id == "code" and isinstance(getattr(item, "value", None), ast.Constant)


def test_every_code_is_explained_and_none_is_invented() -> None:
    raised = codes_of_the_source()
    assert len(raised) > 90
    assert {code: raised[code] for code in raised.keys() - entries().keys()} == {}
    # Codes that stand in variables, tables and subclasses of subclasses.
    text = "\n".join(
        path.read_text()
        for room in ("api", "core", "engine", "worker")
        for path in (ROOT / room).rglob("*.py")
        if "documentation" not in path.parts
    )
    by_status = {status.name.lower() for status in HTTPStatus}
    assert [code for code in entries() if f'"{code}"' not in text and code not in by_status] == []


def test_no_code_is_explained_twice_and_each_says_what_to_do() -> None:
    assert not REQUESTS.keys() & JOBS.keys()
    for entry in entries().values():
        assert entry.meaning.endswith(".")
        assert entry.remedy.endswith(".")
    assert all(entries()[code].status for code in REQUESTS)


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/jobs?limit=0", "/v1/models?labels=1"])
def test_the_type_of_a_problem_is_a_page(client: Client, path: str) -> None:
    body = client.get(path).json()
    page = client.get(body["type"], headers={"Authorization": ""})
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert body["code"] in page.text
    assert entries()[body["code"]].remedy.partition("'")[0][:30] in page.text.replace("&lt;", "<").replace("&gt;", ">")
    assert body["type"] in client.get("/problems").text


def test_a_code_that_is_none_is_not_found(client: Client) -> None:
    answer = client.get("/problems/spec-invalit")
    assert answer.status_code == 404
    assert "spec_invalid" in answer.json()["hint"]
