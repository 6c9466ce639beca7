"""Names, labels, filters and orders of what a project has; specs that are made of specs."""

from typing import Any

import numpy as np
import pytest

from core.jobs import NewArtifact
from core.jobs.patch import merged
from modelpress import Client as Modelpress
from tests.api.conftest import Client, Server, npz, problem


def ids(client: Client, path: str, **query: Any) -> list[str]:
    """The ids on one page."""
    answer = client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["data"]]


def all_ids(client: Client, path: str, **query: Any) -> list[str]:
    """The ids on every page of two."""
    found: list[str] = []
    url: str | None = str(client.build_request("GET", path, params={**query, "limit": 2}).url)
    while url:
        answer = client.get(url)
        assert answer.status_code == 200, answer.text
        found += [item["id"] for item in answer.json()["data"]]
        url = answer.links["next"]["url"] if "next" in answer.links else None
    return found


@pytest.mark.parametrize(("kind", "shown"), [("models", "labels"), ("datasets", "tags")])
def test_things_are_named_labelled_and_found(
    client: Client, stranger: Client, onnx_bytes: bytes, npz_bytes: bytes, kind: str, shown: str
) -> None:
    content = onnx_bytes if kind == "models" else npz_bytes
    path = f"/v1/{kind}"

    def make(name: str, *labels: str) -> dict[str, Any]:
        answer = client.post(path, params={"name": name, "label": labels}, content=content)
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    first, second, third = make("b", "team=vision", "stage=test"), make("a", "team=audio"), make("b")
    assert (first[shown], third[shown]) == ({"team": "vision", "stage": "test"}, {})
    assert ids(client, path, label="team") == [second["id"], first["id"]]
    assert ids(client, path, label="team=vision") == ids(client, path, label="team:vision") == [first["id"]]
    assert ids(client, path, label=["team", "stage"]) == [first["id"]]
    assert ids(client, path, label="team=") == []
    assert ids(client, path, name="b") == [third["id"], first["id"]]
    assert ids(client, path, sha256=first["sha256"]) == [third["id"], second["id"], first["id"]]
    assert ids(client, path, sha256="0" * 64) == []
    assert ids(client, path, format="csv") == []
    assert ids(client, path, created_before=second["created_at"]) == [first["id"]]
    assert ids(client, path, created_after=second["created_at"]) == [third["id"]]
    changed = client.patch(f"{path}/{first['id']}", json={"name": "c", "labels": {"team": "speech", "stage": None, "new": ""}})
    assert changed.status_code == 200, changed.text
    assert (changed.json()["name"], changed.json()[shown]) == ("c", {"team": "speech", "new": ""})
    assert client.get(f"{path}/{first['id']}").json() == changed.json()
    assert ids(client, path, label="team=speech") == [first["id"]]
    assert ids(client, path, label="team=vision") == ids(client, path, label="stage") == []
    assert client.patch(f"{path}/{first['id']}").json() == changed.json()
    problem(stranger.patch(f"{path}/{first['id']}", json={"name": "mine"}), 404, "not_found")
    assert ids(stranger, path, label="team") == []
    assert client.delete(f"{path}/{first['id']}").status_code == 204
    assert ids(client, path, label="team=speech") == []


@pytest.mark.parametrize(
    ("body", "code", "pointer"),
    [
        ({"labels": {"": "x"}}, "invalid_body", "/labels"),
        ({"labels": {"k" * 64: "x"}}, "invalid_body", "/labels"),
        ({"labels": {"k": "x" * 256}}, "invalid_body", "/labels/k"),
        ({"labels": {"k": 1}}, "invalid_body", "/labels/k"),
        ({"name": ""}, "invalid_body", "/name"),
        ({"label": {}}, "invalid_body", "/label"),
        ({"labels": {str(number): "x" for number in range(17)}}, "labels_invalid", "/labels"),
    ],
)
def test_labels_are_bounded(client: Client, onnx_bytes: bytes, body: dict[str, Any], code: str, pointer: str) -> None:
    path = client.model(onnx_bytes)["urls"]["self"]
    assert problem(client.patch(path, json=body), 422, code)["errors"][0]["pointer"].startswith(pointer)
    assert client.get(path).json()["labels"] == {}


@pytest.mark.parametrize("label", ["novalue", "=x", "k" * 64 + "=x", "k=" + "x" * 256])
def test_a_label_that_is_none_refuses_an_upload(client: Client, onnx_bytes: bytes, label: str) -> None:
    problem(client.post("/v1/models", params={"label": label}, content=onnx_bytes), 422, "invalid_parameter")
    assert ids(client, "/v1/models") == []


@pytest.mark.parametrize(("sort", "key"), [("created_at", "id"), ("name", "name"), ("size_bytes", "size_bytes")])
@pytest.mark.parametrize("descending", [False, True])
def test_orders_page_without_gap_or_repetition(client: Client, sort: str, key: str, descending: bool) -> None:
    """Equal names are ordered by their ids; a page goes on behind the last one whatever is renamed in between."""
    lengths = {"a": 4, "b": 2, "c": 9}
    made = [client.dataset(npz(x_train=np.zeros((lengths[name], 4), np.float32)), name=name) for name in ("b", "a", "c", "a", "b")]
    wanted = [item["id"] for item in sorted(made, key=lambda item: (item[key], item["id"]), reverse=descending)]
    assert all_ids(client, "/v1/datasets", sort=f"{'-' if descending else ''}{sort}") == wanted


def test_a_cursor_of_an_order_is_one_of_the_list(client: Client, stranger: Client, onnx_bytes: bytes) -> None:
    """A foreign id says nothing about its place, and one that left the list is no silent end."""
    mine = [client.model(onnx_bytes, name=name)["id"] for name in ("a", "b", "c")]
    theirs = stranger.model(onnx_bytes, name="b")["id"]
    problem(client.get("/v1/models", params={"sort": "name", "after": theirs}), 400, "malformed_request")
    assert ids(client, "/v1/models", sort="name", after=mine[0]) == mine[1:]
    client.delete(f"/v1/models/{mine[0]}")
    problem(client.get("/v1/models", params={"sort": "name", "after": mine[0]}), 400, "malformed_request")
    problem(client.get("/v1/models", params={"sort": "nam"}), 422, "invalid_parameter")


def test_jobs_are_found_by_what_they_came_to(client: Client, server: Server, spec: dict[str, Any]) -> None:
    first, second, third = (client.job({**spec, "name": name}) for name in ("a", "b", "a"))
    server.finish(second["id"], outcome="constraints_met")
    assert ids(client, "/v1/jobs", outcome="constraints_met") == [second["id"]]
    assert ids(client, "/v1/jobs", name="a") == [third["id"], first["id"]]
    assert ids(client, "/v1/jobs", created_before=second["created_at"]) == [first["id"]]
    assert ids(client, "/v1/jobs", dataset_id=spec["dataset"], limit=1) == [third["id"]]
    assert ids(client, "/v1/jobs", dataset_id="ds_0") == []
    assert all_ids(client, "/v1/jobs", sort="created_at") == [first["id"], second["id"], third["id"]]


@pytest.fixture
def published(client: Client, server: Server, spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The artifacts of two jobs."""
    found: list[dict[str, Any]] = []
    for number in range(2):
        job = client.job(spec)
        blobs = [server.service.blobs.put_bytes(f"{number} {name}".encode() * (number + 1)) for name in ("model", "report")]
        new = [NewArtifact("model", "onnx", "model.onnx", blobs[0]), NewArtifact("report", "json", "report, été.json", blobs[1])]
        server.finish(job["id"], artifacts=new)
        found += client.get(job["urls"]["artifacts"]).json()["data"]
    return found


def test_artifacts_are_found_across_jobs(client: Client, stranger: Client, published: list[dict[str, Any]]) -> None:
    one, two = published[0], published[2]
    path = "/v1/artifacts"
    assert all_ids(client, path) == [item["id"] for item in published[::-1]]
    assert ids(client, path, filename="model.onnx") == ids(client, path, kind="model") == [two["id"], one["id"]]
    assert ids(client, path, job_id=one["job_id"], format="onnx") == ids(client, path, sha256=one["sha256"]) == [one["id"]]
    assert all_ids(client, path, sort="filename") == [
        item["id"] for item in sorted(published, key=lambda item: (item["filename"], item["id"]))
    ]
    changed = client.patch(one["urls"]["self"], json={"name": "best so far", "labels": {"stage": "release"}}).json()
    assert (changed["name"], changed["labels"], changed["sha256"]) == ("best so far", {"stage": "release"}, one["sha256"])
    assert ids(client, path, label="stage=release") == ids(client, path, name="best so far") == [one["id"]]
    assert client.patch(one["urls"]["self"], json={"name": None}).json()["name"] is None
    assert client.get(one["urls"]["self"]).json()["labels"] == {"stage": "release"}
    assert ids(stranger, path) == []
    problem(stranger.patch(one["urls"]["self"], json={}), 404, "not_found")
    client.delete(f"/v1/jobs/{one['job_id']}")
    assert ids(client, path, label="stage=release") == []


def test_an_artifact_is_fetched_by_its_name(client: Client, stranger: Client, published: list[dict[str, Any]]) -> None:
    for item in published:
        answer = client.get(f"/v1/jobs/{item['job_id']}/artifacts/{item['filename']}")
        assert (answer.status_code, answer.headers["etag"]) == (200, f'"{item["sha256"]}"')
        assert answer.content == client.get(item["urls"]["content"]).content
    missing = f"/v1/jobs/{published[0]['job_id']}/artifacts/other.onnx"
    foreign = f"/v1/jobs/{published[0]['job_id']}/artifacts/model.onnx"
    for asking, path in ((client, missing), (stranger, foreign)):
        problem(asking.get(path), 404, "not_found")


@pytest.mark.parametrize(
    ("document", "patch", "result"),
    [  # RFC 7396, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_a_merge_patch_is_that_of_the_rfc(document: Any, patch: Any, result: Any) -> None:
    assert merged(document, patch) == result


def test_a_job_is_run_again_with_changes(client: Client, spec: dict[str, Any]) -> None:
    """Of the spec as it was sent; the first one stays as it is, and may be under way."""
    first = client.job({**spec, "name": "first", "labels": {"team": "vision"}})
    answer = client.post(f"/v1/jobs/{first['id']}/rerun", json={"name": "second", "seed": 3, "labels": {"team": None, "try": "2"}})
    assert answer.status_code == 202, answer.text
    second = answer.json()
    assert answer.headers["location"] == second["urls"]["self"]
    assert (second["retry_of"], second["name"], second["labels"]) == (first["id"], "second", {"try": "2"})
    assert second["spec"] == {**spec, "name": "second", "seed": 3, "labels": {"try": "2"}}
    assert client.get(first["urls"]["self"]).json()["spec"]["name"] == "first"
    yaml = client.post(f"/v1/jobs/{first['id']}/rerun", content="steps: [{method: magnitude_pruning, sparsity: 0.9}]")
    assert yaml.json()["normalized_spec"]["steps"][0]["sparsity"] == 0.9
    assert client.post(f"/v1/jobs/{first['id']}/rerun").json()["spec"] == first["spec"]
    key = {"Idempotency-Key": "k", "Content-Type": "application/merge-patch+json"}
    again = [client.post(f"/v1/jobs/{first['id']}/rerun", content=b'{"seed": 5}', headers=key) for _ in range(2)]
    assert again[0].json()["id"] == again[1].json()["id"]
    problem(client.post(f"/v1/jobs/{first['id']}/rerun", json={"seed": 6}, headers={"Idempotency-Key": "k"}), 422, "idempotency_key_reused")


@pytest.mark.parametrize(
    ("patch", "status", "code"),
    [
        ({"steps": None}, 422, "spec_invalid"),
        ({"sede": 1}, 422, "spec_invalid"),
        ({"model": "mdl_0"}, 404, "not_found"),
        ([1], 422, "invalid_body"),
        ({"name": "x" * 300_000, "labels": {}}, 413, "request_too_large"),
    ],
)
def test_what_a_patch_makes_is_checked_as_a_spec(client: Client, spec: dict[str, Any], patch: Any, status: int, code: str) -> None:
    job = client.job(spec)
    before = ids(client, "/v1/jobs")
    limit = 256 * 1024
    if code == "request_too_large" and client.server.service.settings.max_spec_bytes > limit:
        patch = {"name": "x" * (client.server.service.settings.max_spec_bytes - 20)}
    problem(client.post(f"/v1/jobs/{job['id']}/rerun", json=patch), status, code)
    assert ids(client, "/v1/jobs") == before


def test_templates_make_jobs(client: Client, stranger: Client, spec: dict[str, Any]) -> None:
    kept = {"name": "halve", "description": "Half of the weights.", "spec": {"steps": spec["steps"], "labels": {"of": "template"}}}
    answer = client.post("/v1/templates", json=kept)
    assert answer.status_code == 201, answer.text
    template = answer.json()
    assert client.get(answer.headers["location"]).json() == template
    assert {name: template[name] for name in kept} == kept
    assert ids(client, "/v1/templates", name="halve") == [template["id"]]
    assert ids(client, "/v1/templates", name="other") == ids(stranger, "/v1/templates") == []
    inputs = {"model": spec["model"], "dataset": spec["dataset"]}
    job = client.post(template["urls"]["jobs"], json={**inputs, "labels": {"more": "x"}}).json()
    assert job["spec"] == {**kept["spec"], **inputs, "labels": {"of": "template", "more": "x"}}
    problem(client.post(template["urls"]["jobs"], json={}), 422, "spec_invalid")
    problem(stranger.post(template["urls"]["jobs"], json=inputs), 404, "not_found")
    bad = problem(client.post("/v1/templates", json={"name": "bad", "spec": {"steps": [{"method": "prune"}]}}), 422, "spec_invalid")
    assert bad["errors"][0]["pointer"].startswith("/spec/steps/0")
    assert client.delete(template["urls"]["self"]).status_code == 204
    problem(client.get(template["urls"]["self"]), 404, "not_found")
    assert client.get(job["urls"]["self"]).status_code == 200


def test_the_client_does_all_of_it(client: Client, server: Server, spec: dict[str, Any], tmp_path: Any, onnx_bytes: bytes) -> None:
    (tmp_path / "net.onnx").write_bytes(onnx_bytes)
    with Modelpress(server.url, client.token) as mine:
        model = mine.models.upload(tmp_path / "net.onnx", labels={"team": "vision", "kind": "small"})
        assert mine.models.change(model.id, name="n", labels={"kind": None}).labels == {"team": "vision"}
        assert [item.id for item in mine.models.list(label=["team=vision"], sort="name")] == [model.id]
        template = mine.templates.create("t", {"steps": spec["steps"]})
        assert [item.name for item in mine.templates.list()] == ["t"]
        job = mine.templates.submit(mine.templates.get(template.id).id, {"model": model.id, "dataset": spec["dataset"], "name": "of it"})
        again = job.rerun({"name": None, "seed": 2})
        assert (again.retry_of, again.name, again.spec["seed"]) == (job.id, None, 2)
        mine.templates.delete(template.id)
        server.finish(job.id, artifacts=[NewArtifact("model", "onnx", "m.onnx", server.service.blobs.put_bytes(onnx_bytes))])
        (artifact,) = mine.artifacts.list(kind="model")
        assert mine.artifacts.change(artifact.id, name="best", labels={"a": "b"}).name == "best"
        assert mine.artifacts.promote(artifact.id, labels={"from": "job"}).labels == {"from": "job"}
        assert [item.id for item in mine.jobs.list(name="of it", outcome="no_constraints")] == [job.id]
