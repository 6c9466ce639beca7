"""Forms made of schemas stand for specs; keys are made and revoked; jobs are compared where they differ."""

import html
import re
from typing import Any

import pytest

from api.pages import fields, new
from api.pages.forms import Form
from core.access import keys
from core.access.keys import Scope
from engine.contract.method import catalogue
from engine.contract.spec import parse
from tests.api.conftest import Client, Server
from tests.api.pages.conftest import Browser


@pytest.mark.parametrize("method", list(catalogue()))
def test_every_example_of_every_method_survives_the_form(method: str) -> None:
    """The example as fields, and the fields as a document again: the same step."""
    for example in catalogue()[method].examples:
        form = Form(dict.fromkeys(()))
        for name, value in fields.written(new.step_fields(method), example):
            form[name] = [value]
        document, errors = fields.read(fields.given(new.step_fields(method), form))
        assert errors == {}
        spec = {"model": "mdl_1", "dataset": "ds_1"}
        wanted, problems = parse({**spec, "steps": [example]})
        assert wanted is not None, problems
        found, problems = parse({**spec, "steps": [{"method": method, **document}]})
        assert found is not None, problems
        assert found.normalized() == wanted.normalized()


def sent(page: str) -> dict[str, list[str]]:
    """The fields of the form of a page, as a browser sends them."""
    found: dict[str, list[str]] = {}
    for tag in re.findall(r"<input[^>]*>", page):
        name = re.search(r'name="([^"]*)"', tag)
        value = re.search(r'value="([^"]*)"', tag)
        if name is not None and 'type="checkbox"' not in tag:
            found.setdefault(html.unescape(name[1]), []).append(html.unescape(value[1]) if value else "")
    for name, options in re.findall(r'<select[^>]*name="([^"]*)"[^>]*>(.*?)</select>', page, re.DOTALL):
        chosen = re.search(r'value="([^"]*)" selected', options)
        found.setdefault(name, []).append(html.unescape(chosen[1]) if chosen else "")
    return found


def press(browser: Browser, page: str, action: str, **change: Any) -> Any:
    return browser.post("/new", data={**sent(page), "action": action, **change}, headers={"Origin": browser.origin})


def test_a_job_is_put_together_step_by_step(browser: Browser, client: Client, spec: dict[str, Any]) -> None:
    page = browser.get(f"/new?model={spec['model']}&dataset={spec['dataset']}").text
    for method in ("structured_pruning", "distillation", "static_quantization"):
        page = press(browser, page, "add", add_method=method).text
    assert page.count("Remove this step") == 3
    page = press(browser, page, "remove:0").text
    assert [sent(page)[f"steps.{index}.method"] for index in (0, 1)] == [["distillation"], ["static_quantization"]]
    assert "steps.2.method" not in sent(page)
    page = press(browser, page, "remove:0").text
    wrong = press(browser, page, "check", **{"steps.0.calibration.samples": "many", "constraints.max_file_bytes": "-1"})
    assert "/steps/0/calibration/samples" in wrong.text
    assert "/constraints/max_file_bytes" in wrong.text
    assert wrong.text.count('aria-invalid="true"') == 2
    refused = press(browser, wrong.text, "submit")
    assert refused.status_code == 200
    assert client.get("/v1/jobs").json()["data"] == []
    changed = {"steps.0.calibration.samples": "4", "constraints.max_file_bytes": "1000000", "name": "by form", "labels": "{team: vision}"}
    entered = press(browser, wrong.text, "submit", **changed)
    assert entered.status_code == 303, entered.text
    job = client.get("/v1" + entered.headers["location"]).json()
    assert (job["name"], job["labels"]) == ("by form", {"team": "vision"})
    (step,) = job["spec"]["steps"]
    assert (step["method"], step["calibration"]["samples"]) == ("static_quantization", 4)
    assert job["spec"]["constraints"] == {"max_file_bytes": 1_000_000}
    again = press(browser, wrong.text, "submit", **changed)
    assert again.headers["location"] == entered.headers["location"], "two clicks are one job"


def test_a_job_is_cloned_as_yaml_and_changed(browser: Browser, client: Client, spec: dict[str, Any]) -> None:
    job = client.job({**spec, "name": "first"})
    page = browser.get(f"/new?job={job['id']}").text
    found = re.search(r"<textarea[^>]*>(.*?)</textarea>", page, re.DOTALL)
    assert found is not None
    text = html.unescape(found[1])
    assert "name: first" in text
    checked = press(browser, page, "check", yaml=text.replace("0.5", "50"))
    assert "/steps/0/sparsity" in checked.text
    assert "cannot be read" in press(browser, page, "check", yaml="a: [").text
    entered = press(browser, page, "submit", yaml=text.replace("first", "second"))
    assert client.get("/v1" + entered.headers["location"]).json()["name"] == "second"


def test_what_is_written_is_checked_as_it_is_written(browser: Browser, spec: dict[str, Any], stranger: Client, onnx_bytes: bytes) -> None:
    page = browser.get(f"/new?method=magnitude_pruning&model={spec['model']}&dataset={spec['dataset']}").text
    headers = {"Origin": browser.origin, "HX-Request": "true"}
    ready = browser.post("/new/check", data=sent(page), headers=headers).text
    assert "Ready to run" in ready
    assert "<html" not in ready
    foreign = browser.post("/new/check", data={**sent(page), "model": stranger.model(onnx_bytes)["id"]}, headers=headers).text
    assert "There is no model" in foreign


def test_the_form_is_for_those_who_may_submit(server: Server, nobody: Browser) -> None:
    nobody.log_in(server.key("readers", scopes=[Scope.JOBS_READ]))
    assert nobody.get("/new").status_code == 403
    assert "New job" not in nobody.get("/").text


def test_methods_are_described(browser: Browser) -> None:
    page = browser.get("/methods").text
    for name in catalogue():
        assert f'href="/methods/{name}"' in page
        answer = browser.get(f"/methods/{name}")
        assert answer.status_code == 200
        assert len(answer.content) < 200_000
    missing = browser.get("/methods/prune<b>")
    assert missing.status_code == 404
    assert "<b>" not in missing.text


def test_keys_are_made_shown_once_and_revoked(server: Server, nobody: Browser) -> None:
    nobody.log_in(server.key("admins", scopes=[Scope.ADMIN]))
    made = nobody.fill("/keys", "/keys", name="for <ci>", days="3", scope=["jobs:read"])
    token = re.search(r"mp_[0-9a-z]{26}_[A-Za-z0-9_-]{43}", made.text)
    assert token is not None
    assert "for &lt;ci&gt;" in made.text
    with server.service.database.reader() as session:
        principal = keys.verify(session, token[0])
    assert principal.scopes == {Scope.JOBS_READ}
    listed = nobody.get("/keys").text
    assert token[0] not in listed
    assert principal.key_id in listed
    assert nobody.fill(f"/keys/{principal.key_id}/revoke", "/keys").status_code == 303
    with server.service.database.reader() as session, pytest.raises(keys.Unauthenticated):
        keys.verify(session, token[0])
    for days in ("0", "x", "99999", "-1"):
        assert nobody.fill("/keys", "/keys", name="k", days=days).status_code == 400
    assert nobody.fill("/keys", "/keys", name="").status_code == 400
    assert nobody.fill("/keys", "/keys", name="k", scope=["everything"]).status_code == 400


def test_keys_of_others_are_neither_seen_nor_revoked(server: Server, browser: Browser, client: Client) -> None:
    with server.service.database.reader() as session:
        own = keys.verify(session, client.token or "")
    elsewhere = server.key("admins of another", scopes=[Scope.ADMIN])
    beside = server.service.database
    with beside.unit_of_work() as session:
        second, _ = keys.create(session, own.project_id, "second")
    page = browser.get("/keys").text
    assert own.key_id in page
    assert second.id not in page, "without admin's rights one sees one's own key"
    assert browser.fill("/keys", "/keys", name="k").status_code == 403
    assert browser.fill(f"/keys/{second.id}/revoke", "/keys").status_code == 403
    with Browser(server) as other:
        other.log_in(elsewhere)
        assert second.id not in other.get("/keys").text
        assert other.fill(f"/keys/{second.id}/revoke", "/keys").status_code == 404


def test_jobs_are_compared_where_they_differ(browser: Browser, client: Client, server: Server, spec: dict[str, Any]) -> None:
    first = client.job({**spec, "name": "first"})
    server.finish(first["id"])
    second = client.job({**spec, "name": "second <b>", "steps": [{"method": "magnitude_pruning", "sparsity": 0.75}]})
    page = browser.get(f"/compare?job={first['id']}&job={second['id']}").text
    table = page.partition("Where they differ")[2]
    assert "sparsity" in table
    assert "0.75" in table
    assert "seed" not in table, "what is the same is not shown"
    assert "second &lt;b&gt;" in page
    assert "Choose two or more" in browser.get(f"/compare?job={first['id']}").text
    assert browser.get("/compare?job=job_nothing").status_code == 404
    many = "&".join(f"job={client.job({**spec, 'name': str(number)})['id']}" for number in range(9))
    assert "1 more were chosen" in browser.get(f"/compare?{many}").text


def test_another_projects_job_is_not_compared(
    browser: Browser, client: Client, server: Server, spec: dict[str, Any], stranger: Client
) -> None:
    job = client.job(spec)
    with Browser(server) as other:
        other.log_in(stranger.token)
        assert other.get(f"/compare?job={job['id']}&job={job['id']}").status_code == 404
        assert other.get(f"/new?job={job['id']}").status_code == 404
