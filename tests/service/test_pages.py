"""The pages in a real browser: they draw, they work, and they ask no other origin."""

import json
import shutil
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, sync_playwright

from tests.plain import Client

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")


class Watched:
    """A page, every origin that it asked, and every error that it met."""

    def __init__(self, page: Page, base_url: str) -> None:
        self.page, self.base_url = page, base_url
        self.origins: set[str] = set()
        self.errors: list[str] = []
        page.on("request", lambda request: self.origins.add("{0.scheme}://{0.netloc}".format(urlsplit(request.url))))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)

    def check(self) -> None:
        assert {origin for origin in self.origins if not origin.startswith(("data:", "blob:"))} == {self.base_url}
        assert self.errors == []


@pytest.fixture
def watched(service_url: str) -> Iterator[Watched]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page()
        page.set_default_timeout(60_000)
        yield Watched(page, service_url)
        browser.close()


def press_execute(watched: Watched, operation: str) -> tuple[int, Any]:
    """Open one operation of the Swagger UI, press Execute as it stands, and return the live response."""
    section = watched.page.locator(f"#operations-{operation}")
    section.locator(".opblock-summary-control").click()
    section.get_by_role("button", name="Execute").click()
    live = section.locator(".live-responses-table .response").first
    status = int(live.locator(".response-col_status").inner_text().split()[0])
    return status, live.locator(".highlight-code").first.inner_text()


def operation_of(client: Client, method: str, path: str) -> str:
    operation = client.json("GET", "/openapi.json")["paths"][path][method]
    return f"{operation['tags'][0]}-{operation['operationId']}"


def test_swagger_examples_execute(watched: Watched, service_url: str) -> None:
    watched.page.goto(f"{service_url}/docs")
    for method, path, status in (
        ("get", "/v1/methods", 200),
        ("get", "/v1/models", 200),
        ("get", "/v1/models/{model_id}", 200),
        ("post", "/v1/jobs/validate", 200),
        ("post", "/v1/jobs", 202),
    ):
        got, body = press_execute(watched, operation_of(Client(service_url), method, path))
        assert got == status, f"{method} {path}: {body}"
        if path == "/v1/jobs/validate":
            assert '"valid": true' in body
    watched.check()


def test_report_draws_without_script(watched: Watched, service_url: str) -> None:
    client = Client(service_url)
    model = client.json("GET", "/v1/models?sort=created_at")["data"][0]["id"]
    dataset = client.json("GET", "/v1/datasets?sort=created_at")["data"][0]["id"]
    spec = {"name": "<script>alert(1)</script>", "model": model, "dataset": dataset, "quantize": "int8"}
    submitted = client.json("POST", "/v1/jobs", spec)
    job = client.end(submitted["id"])
    assert job["status"] == "succeeded", json.dumps(job["error"])
    watched.page.goto(f"{service_url}/v1/jobs/{job['id']}/report.html")
    assert watched.page.locator("table").count() >= 1
    assert "99.06" in watched.page.locator("body").inner_text()
    assert watched.page.locator("script").count() == 0
    watched.check()
