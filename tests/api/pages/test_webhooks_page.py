"""Webhooks on pages: made, looked into, sent again, switched off."""

import re
import time
from typing import Any

from core.webhooks import deliveries
from core.webhooks.deliveries import Answer
from tests.api.conftest import Client, Server
from tests.api.pages.conftest import Browser

HOOK = "https://hooks.example/<x>"


def made(browser: Browser) -> tuple[str, str]:
    """The id of a new webhook, and the page that shows its secret."""
    page = browser.fill("/webhooks", "/webhooks", url="https://hooks.example/x", description="the <b>wall</b>", event=["job.failed"])
    assert page.status_code == 200, page.text
    return re.findall(r'href="/webhooks/(whk_\w+)"', browser.get("/webhooks").text)[0], page.text


def test_a_webhook_is_made_and_its_secret_shown_once(browser: Browser) -> None:
    assert "Nobody is told anything yet" in browser.get("/webhooks").text
    webhook, shown = made(browser)
    secret = re.search(r"whsec_[A-Za-z0-9+/=]+", shown)
    assert secret is not None
    for path in ("/webhooks", f"/webhooks/{webhook}"):
        text = browser.get(path).text
        assert secret[0] not in text
        assert "<b>wall" not in text
    rotated = browser.fill(f"/webhooks/{webhook}/rotate", f"/webhooks/{webhook}").text
    assert re.search(r"whsec_[A-Za-z0-9+/=]+", rotated)[0] != secret[0]


def test_what_cannot_be_an_address_is_refused_on_the_page(browser: Browser) -> None:
    for fields, words in (
        ({"url": "http://127.0.0.1/x", "event": ["job.failed"]}, "https"),
        ({"url": "https://hooks.example/x"}, "needs an event"),
    ):
        page = browser.fill("/webhooks", "/webhooks", **fields)
        assert page.status_code in (400, 422)
        assert words in page.text


def test_an_mlflow_server_is_named_on_the_page(browser: Browser) -> None:
    fields = {"url": "https://mlflow.example", "experiment": "compressions", "credentials": "ada:lovelace", "event": ["job.succeeded"]}
    assert browser.fill("/webhooks", "/webhooks", **fields).status_code == 303
    (webhook,) = re.findall(r'href="/webhooks/(whk_\w+)"', text := browser.get("/webhooks").text)
    assert "MLflow</span>" in text
    page = browser.get(f"/webhooks/{webhook}").text
    assert "experiment compressions" in page
    assert "lovelace" not in text + page
    refused = browser.fill("/webhooks", "/webhooks", **{**fields, "event": ["job.started"]})
    assert refused.status_code == 400
    assert "alone" in refused.text


def test_the_log_and_sending_again(browser: Browser, server: Server, client: Client) -> None:
    webhook, _ = made(browser)
    assert "Nothing was sent" in browser.get(f"/webhooks/{webhook}").text
    assert browser.fill(f"/webhooks/{webhook}/test", f"/webhooks/{webhook}").status_code == 303
    delivery = re.findall(rf'href="/webhooks/{webhook}/(dlv_\w+)"', browser.get(f"/webhooks/{webhook}").text)[0]
    path = f"/webhooks/{webhook}/{delivery}"
    assert "It was not tried yet" in browser.get(path).text
    for _ in range(20):
        with server.service.database.unit_of_work() as session:
            attempts = {item.delivery_id: item for item in deliveries.claim(session, 10, {})}
        if delivery in attempts:
            break
    with server.service.database.unit_of_work() as session:
        deliveries.settle(session, attempts[delivery], Answer(status_code=500, error=None, duration_ms=12.0, excerpt="<script>no</script>"))
    deadline = time.monotonic() + 10  # a page is shared for a moment
    while "500" not in (text := browser.get(path).text):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "<script>no" not in text
    assert browser.fill(f"{path}/redeliver", path).status_code == 303
    found: dict[str, Any] = client.get(f"/v1{path.replace(delivery, f'deliveries/{delivery}')}").json()
    assert found["status"] == "pending"


def test_it_is_switched_off_and_removed(browser: Browser, nobody: Browser) -> None:
    webhook, _ = made(browser)
    path = f"/webhooks/{webhook}"
    assert nobody.get(path).status_code == 303, "the way to the log-in"
    assert browser.post(f"{path}/delete", data={"form_token": "0" * 96}).status_code == 403
    browser.fill(f"{path}/enabled", path, enabled="false")
    assert "Nothing is sent here" in browser.get(path).text
    browser.fill(f"{path}/enabled", path, enabled="true")
    assert "Nothing is sent here" not in browser.get(path).text
    browser.fill(f"{path}/delete", path)
    assert browser.get(path).status_code == 404
