"""Webhooks by HTTP: what is taken, what is shown once, and the log of what was sent."""

from typing import Any

import pytest

from core.webhooks import deliveries
from core.webhooks.deliveries import Answer
from modelpress import Client as Modelpress
from tests.api.conftest import Client, Server, problem

URL = "https://hooks.example/modelpress"


def make(client: Client, **fields: Any) -> dict[str, Any]:
    answer = client.post("/v1/webhooks", json={"url": URL, **fields})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    assert answer.headers["location"] == found["urls"]["self"]
    return found


def send(server: Server, webhook_id: str, answer: Answer) -> None:
    """What a deliverer does with everything that waits for this address."""
    with server.service.database.unit_of_work() as session:
        attempts = deliveries.claim(session, 1000, {})
        for attempt in attempts:
            deliveries.settle(session, attempt, answer)
    assert webhook_id in {attempt.webhook_id for attempt in attempts}


def test_a_webhook_is_made_changed_and_removed(client: Client) -> None:
    made = make(client, description="CI")
    assert made["events"] == ["job.cancelled", "job.failed", "job.succeeded"]
    assert made["secret"].startswith("whsec_")
    path = made["urls"]["self"]
    assert client.get(path).json() == {key: value for key, value in made.items() if key != "secret"}
    assert made["secret"] not in client.get("/v1/webhooks").text
    changed = client.patch(path, json={"events": ["job.started"], "enabled": False, "description": None}).json()
    assert (changed["events"], changed["enabled"], changed["description"], changed["url"]) == (["job.started"], False, None, URL)
    problem(client.post(made["urls"]["test"]), 409, "webhook_disabled")
    assert client.patch(path, json={"enabled": True}).json()["disabled_reason"] is None
    rotated = client.post(made["urls"]["rotate_secret"]).json()
    assert rotated["secret"] not in ("", made["secret"])
    assert rotated["previous_secret_until"] is not None
    assert client.delete(path).status_code == 204
    problem(client.get(path), 404, "not_found")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"url": "http://hooks.example/"}, "egress_refused"),
        ({"url": "https://user:pw@hooks.example/"}, "egress_refused"),
        ({"url": "https://hooks.example:22/"}, "egress_refused"),
        ({"url": "file:///etc/passwd"}, "egress_refused"),
        ({"url": ""}, "egress_refused"),
        ({"url": "https://h/" + "x" * 3000}, "invalid_body"),
        ({"events": []}, "invalid_body"),
        ({"events": ["job.exploded"]}, "invalid_body"),
        ({"secret": "mine"}, "invalid_body"),
        ({"url": None}, "invalid_body"),
        ({"credentials": "ada:secret"}, "invalid_body"),
        ({"mlflow": {}, "events": ["job.started"]}, "invalid_body"),
        ({"mlflow": {"experiment": ""}}, "invalid_body"),
        ({"mlflow": {"registered_model": "a/b"}}, "invalid_body"),
        ({"mlflow": {"runs": "all"}}, "invalid_body"),
    ],
)
def test_what_is_no_webhook_is_refused(client: Client, fields: dict[str, Any], code: str) -> None:
    problem(client.post("/v1/webhooks", json={"url": URL, **fields}), 422, code)
    path = make(client)["urls"]["self"]
    if set(fields) == {"url"} and fields["url"] is not None:
        problem(client.patch(path, json=fields), 422, code)
    assert client.get(path).json()["url"] == URL


def test_an_mlflow_server_is_named_and_its_credentials_are_never_shown(client: Client) -> None:
    made = make(client, mlflow={"experiment": "compressions", "jobs": "labelled"}, credentials="ada:lovelace")
    assert made["mlflow"] == {"experiment": "compressions", "registered_model": None, "jobs": "labelled"}
    path = made["urls"]["self"]
    changed = client.patch(path, json={"mlflow": {"registered_model": "small"}, "credentials": "t0ken"}).json()
    assert changed["mlflow"] == {"experiment": "modelpress", "registered_model": "small", "jobs": "all"}
    assert not any(word in client.get("/v1/webhooks").text for word in ("lovelace", "t0ken", "credentials"))
    problem(client.patch(make(client)["urls"]["self"], json={"mlflow": {}}), 400, "malformed_request")
    problem(client.patch(path, json={"events": ["job.started"]}), 400, "malformed_request")


def test_deliveries_are_logged_and_sent_again(client: Client, server: Server, spec: dict[str, Any]) -> None:
    webhook = make(client, events=["job.created", "job.succeeded"])
    job = client.job(spec)
    server.finish(job["id"])
    listed = client.get(webhook["urls"]["deliveries"]).json()["data"]
    assert [(item["type"], item["job_id"], item["status"], item["attempts_count"]) for item in listed] == [
        ("job.succeeded", job["id"], "pending", 0),
        ("job.created", job["id"], "pending", 0),
    ]
    assert listed[0]["payload"]["data"]["outcome"] == "no_constraints"
    send(server, webhook["id"], Answer(500, None, 12.5, "oh no"))
    assert client.get(webhook["urls"]["deliveries"], params={"status": "delivered"}).json()["data"] == []
    again = client.post(listed[0]["urls"]["redeliver"])
    assert (again.status_code, again.json()["status"]) == (202, "pending")
    send(server, webhook["id"], Answer(204, None, 3.0))
    shown = client.get(listed[0]["urls"]["self"]).json()
    assert (shown["status"], shown["message_id"], shown["next_attempt_at"]) == ("delivered", listed[0]["message_id"], None)
    assert [(item["number"], item["status_code"], item["answer"]) for item in shown["attempts"]] == [(1, 500, "oh no"), (2, 204, None)]
    (delivered,) = client.get(webhook["urls"]["deliveries"], params={"status": "delivered"}).json()["data"]
    assert delivered["id"] == listed[0]["id"]


def test_reading_and_writing_are_apart(server: Server, client: Client) -> None:
    from core.access.keys import Scope

    with server.client("webhook-readers", scopes=[Scope.WEBHOOKS_READ]) as reader:
        assert reader.get("/v1/webhooks").status_code == 200
        problem(reader.post("/v1/webhooks", json={"url": URL}), 403, "scope_missing")
    with server.client("job-writers", scopes=[Scope.JOBS_WRITE, Scope.JOBS_READ]) as other:
        problem(other.get("/v1/webhooks"), 403, "scope_missing")


def test_the_client_does_all_of_it(server: Server, client: Client) -> None:
    with Modelpress(server.url, client.token) as mine:
        webhook = mine.webhooks.create(URL, events=["job.started"])
        assert mine.webhooks.rotate_secret(webhook.id).secret != webhook.secret
        delivery = mine.webhooks.test(webhook.id)
        assert [item.id for item in mine.webhooks.deliveries(webhook.id, status="pending")] == [delivery.id]
        send(server, webhook.id, Answer(500, None, 1.0))
        assert mine.webhooks.redeliver(webhook.id, delivery.id).attempts_count == 1
        assert [item.status_code for item in mine.webhooks.delivery(webhook.id, delivery.id).attempts] == [500]
        assert not mine.webhooks.change(webhook.id, enabled=False).enabled
        assert [item.id for item in mine.webhooks.list()] == [mine.webhooks.get(webhook.id).id]
        mine.webhooks.delete(webhook.id)
        assert list(mine.webhooks.list()) == []
