"""The public contract changes by additions only: what version 0.1.0 promised still holds, and nothing more is asked for.

`contract_0.1.0.txt.gz` holds the promises and, after an empty line, the demands of its `docs/openapi.json`, as `tests.api.outline` reads
them.
"""

import copy
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.api.outline import demands, promises

HERE = Path(__file__).parent
WITHDRAWN = {
    # Lists hold jobs in short (`ListedJob`): see CHANGELOG.md.
    "GET /v1/jobs answers 200 application/json: Page_Job_",
    # A body may be left out, but `null` is none.
    "POST /v1/artifacts/{artifact_id}/promote takes application/json: null",
    "POST /v1/uploads takes application/json: null",
}
WITHDRAWN_SCHEMAS = ("Page_Job_",)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((HERE.parents[1] / "docs" / "openapi.json").read_text())
    return found


@pytest.fixture(scope="module")
def before() -> tuple[set[str], set[str]]:
    promised, demanded = gzip.decompress((HERE / "contract_0.1.0.txt.gz").read_bytes()).decode().split("\n\n")
    return set(promised.splitlines()), set(demanded.splitlines())


def test_what_was_promised_holds(document: dict[str, Any], before: tuple[set[str], set[str]]) -> None:
    # Neither a query nor a header can carry a null: it would be the word.
    sendable = {item for item in before[0] if not re.search(r" takes (query|header) \S+: null$", item)}
    kept = {item for item in sendable - WITHDRAWN if not item.startswith(WITHDRAWN_SCHEMAS)}
    assert len(kept) > 2000
    assert sorted(kept - promises(document)) == []


def test_nothing_more_is_demanded(document: dict[str, Any], before: tuple[set[str], set[str]]) -> None:
    # A request that 0.1.0 did not know may demand what it likes.
    routes = {item.partition(" is ")[0] for item in before[0] if " is " in item}
    known = {item.partition(" ")[0] for item in before[0] if item.endswith(" is there")}
    more = demands(document) - before[1]
    # Steps always had to say their method; the document says so, too.
    more = {item for item in more if not (item.startswith("Spec") and item.endswith(" needs method"))}
    assert sorted(item for item in more if item.partition(" needs ")[0] in routes | known) == []


@pytest.mark.parametrize("harm", ["route", "answer", "property", "type", "value", "required"])
def test_every_kind_of_removal_is_noticed(document: dict[str, Any], before: tuple[set[str], set[str]], harm: str) -> None:
    changed = copy.deepcopy(document)
    job = changed["components"]["schemas"]["Job"]
    match harm:
        case "route":
            del changed["paths"]["/v1/jobs/{job_id}/cancel"]
        case "answer":
            del changed["paths"]["/v1/jobs"]["post"]["responses"]["202"]
        case "property":
            del job["properties"]["outcome"]
        case "type":
            job["properties"]["attempt"] = {"type": "string"}
        case "value":
            job["properties"]["status"]["enum"].remove("cancelled")
        case "required":
            job["required"].remove("labels")
    assert before[0] - promises(changed) > before[0] - promises(document)


def test_a_new_demand_is_noticed(document: dict[str, Any]) -> None:
    changed = copy.deepcopy(document)
    changed["components"]["schemas"]["SpecEvaluation"]["required"] = ["split"]
    assert demands(changed) - demands(document) == {"SpecEvaluation needs split"}
