"""The pages in a real browser: wide and narrow, light and dark, with and without scripts, by mouse and by keyboard."""

import itertools
import json
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import Page, sync_playwright

from core import jobs
from core.access.keys import USER_SCOPES, Scope
from core.jobs import NewArtifact, Point, Report
from tests.api.conftest import DATASET_INSPECTION, MODEL_INSPECTION, Client, Server
from tests.results import summary
from tests.service.test_pages import CHROMIUM, FLAGS

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
AXE = (Path(__file__).parents[2] / "vendored" / "axe.min.js").read_text(encoding="utf-8")
REPORT = (Path(__file__).parents[1] / "report.json").read_bytes()
_numbers = itertools.count()


@dataclass
class World:
    """A project with two models, pictures, a webhook, a job that ended well, one that failed and one that waits."""

    server: Server
    token: str
    model: str
    dataset: str
    done: str
    waiting: str
    failed: str
    webhook: str
    client: Client = field(repr=False)


@pytest.fixture(scope="module")
def world(server: Server, onnx_bytes: bytes, npz_bytes: bytes) -> Iterator[World]:
    with server.client("chromium", scopes=[*USER_SCOPES, Scope.ADMIN]) as client:
        model, dataset = client.model(onnx_bytes, name="linear"), client.dataset(npz_bytes, name="points and pictures")
        server.inspected(model["id"], MODEL_INSPECTION)
        values = [[(17 * row * column) % 256 for column in range(16)] for row in range(16)]
        picture = {"index": 0, "label": 1, "inputs": {"x": {"minimum": 0, "maximum": 255, "mean": 99.0, "values": values}}}
        server.inspected(dataset["id"], {**DATASET_INSPECTION, "preview": {"train": [picture] * 4}})
        spec = {"model": model["id"], "dataset": dataset["id"], "steps": [{"method": "magnitude_pruning", "sparsity": 0.5}]}
        done = client.job({**spec, "name": "half of the weights", "labels": {"team": "vision"}})["id"]
        claim = server.claim(done)
        points = [Point(name, 1 / epoch, epoch, None, 0) for epoch in range(1, 6) for name in ("train.loss", "validation.loss")]
        server.report(claim, Report(metrics=points, log="2026-01-01T00:00:00.000Z warning look here\nplain\n"))
        blobs = server.service.blobs
        files = [
            NewArtifact("model", "onnx", "model.onnx", blobs.put_bytes(onnx_bytes), metrics={"test.top1": 0.9}),
            NewArtifact("report", "json", "report.json", blobs.put_bytes(REPORT)),
        ]
        with server.service.database.unit_of_work() as session:
            result = summary(60).model_dump(mode="json")
            jobs.finish(session, claim.job_id, claim.fence, outcome="constraints_met", result=result, artifacts=files)
        failed = client.job({**spec, "name": "lost"})["id"]
        claim = server.claim(failed)
        with server.service.database.unit_of_work() as session:
            error = jobs.JobError.of("training_diverged", "user", "The loss became infinite.", hint="Lower the learning rate.")
            jobs.fail(session, claim.job_id, claim.fence, error)
        waiting = client.job({**spec, "name": "waiting", "steps": [{"method": "magnitude_pruning", "sparsity": 0.7}]})["id"]
        webhook = client.post("/v1/webhooks", json={"url": "https://hooks.example/x"}).json()["id"]
        yield World(server, client.token or "", model["id"], dataset["id"], done, waiting, failed, webhook, client)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """A page of a browser, with every origin that it asked and every error that it met."""

    def __init__(self, chromium: Chromium, server: Server, **options: Any) -> None:
        self.url = server.url
        self.narrow = options.get("is_mobile", False)
        self.context = chromium.new_context(base_url=server.url, bypass_csp=False, **options)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(15_000)
        self.origins: set[str] = set()
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.origins.add("{0.scheme}://{0.netloc}".format(urlsplit(request.url))))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: self.errors.append(f"{said.text} {said.location}") if said.type == "error" else None)

    def log_in(self, token: str) -> "Visit":
        self.page.goto("/login")
        self.page.get_by_label("API key").fill(token)
        self.page.get_by_role("button", name="Log in").click()
        self.page.wait_for_url("**/")
        return self

    def check(self) -> None:
        assert {origin for origin in self.origins if not origin.startswith(("data:", "blob:"))} <= {self.url}
        assert self.errors == []


WIDE = {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"}
NARROW = {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark", "is_mobile": True, "has_touch": True}
TABS = ("", "/steps", "/training", "/layers", "/artifacts", "/logs", "/spec", "/events")


def paths(world: World) -> dict[str, str]:
    """Every page, by what it must show."""
    job = f"/jobs/{world.done}"
    return {
        "/": "half of the weights",
        f"/jobs/{world.waiting}": "Waiting for a worker",
        **{f"{job}{tab}": "half of the weights" for tab in TABS},
        "/models": "linear",
        f"/models/{world.model}": "MatMul_0",
        "/datasets": "points and pictures",
        f"/datasets/{world.dataset}": "First examples of train",
        "/methods": "Structured pruning",
        "/methods/structured_pruning": "Parameters",
        f"/compare?job={world.done}&job={world.waiting}": "steps 1 magnitude_pruning.sparsity",
        "/new?method=structured_pruning": "Add another step",
        f"/new?job={world.done}": "Spec",
        "/keys": "Make the key",
        "/webhooks": "Make the webhook",
        f"/webhooks/{world.webhook}": "Send a test",
        f"/jobs/{world.failed}": "Lower the learning rate",
        "/problems/spec-invalid": "What to do",
    }


@pytest.fixture(scope="module", params=[WIDE, NARROW], ids=["wide and light", "narrow and dark"])
def visit(request: pytest.FixtureRequest, chromium: Chromium, world: World) -> Iterator[Visit]:
    opened = Visit(chromium, world.server, **request.param).log_in(world.token)
    yield opened
    opened.context.close()


@pytest.mark.parametrize("number", range(24))
def test_every_page(visit: Visit, world: World, number: int) -> None:
    found = list(paths(world).items())
    assert len(found) == 24
    path, wanted = found[number]
    page = visit.page
    page.goto(path)
    page.wait_for_load_state("networkidle") if path.startswith("/new") else None
    assert wanted in page.locator("main").inner_text() or wanted in page.content()
    inner, whole = page.evaluate("[window.innerWidth, document.documentElement.scrollWidth]")
    assert whole <= inner, "the page itself does not scroll sideways"
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    page.evaluate(AXE)
    rules = (
        {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
        if visit.narrow
        else {"type": "rule", "values": ["color-contrast"]}
    )
    found_by_axe = page.evaluate("(rules) => axe.run({runOnly: rules, resultTypes: ['violations']})", rules)
    serious = [item for item in found_by_axe["violations"] if item["impact"] in ("serious", "critical")]
    assert serious == [], json.dumps([(item["id"], [node["html"][:200] for node in item["nodes"]]) for item in serious], indent=1)
    visit.check()


A_YEAR_MS = 366 * 86_400_000


def test_graphs_are_drawn_also_next_year(chromium: Chromium, world: World) -> None:
    """Netron by itself stops half a year after its release, and asks other servers before it draws."""
    visit = Visit(chromium, world.server, **WIDE)
    visit.context.add_init_script(
        f"const now = Date.now; Date.now = () => now() + {A_YEAR_MS};"
        f"Date = class extends Date {{ constructor(...given) {{ given.length ? super(...given) : super(now() + {A_YEAR_MS}); }} }};"
    )
    visit.log_in(world.token)
    visit.page.goto(f"/jobs/{world.done}/graph")
    assert visit.page.evaluate("new Date().getFullYear()") > visit.page.evaluate("new Date(performance.timeOrigin).getFullYear()")
    for number in (0, 1):
        visit.page.frame_locator("iframe").nth(number).locator("g.node").first.wait_for()
    visit.check()


def test_the_picture_of_the_readme_is_taken(start: Callable[..., Server], onnx_bytes: bytes, npz_bytes: bytes, tmp_path: Path) -> None:
    server = start(auth="off")
    with Client(server, None) as client:
        model, dataset = client.model(onnx_bytes), client.dataset(npz_bytes)
        server.inspected(model["id"], MODEL_INSPECTION)
        server.inspected(dataset["id"], DATASET_INSPECTION)
        job = client.job({"model": model["id"], "dataset": dataset["id"], "steps": [{"method": "magnitude_pruning", "sparsity": 0.5}]})
        server.finish(job["id"])
    root = Path(__file__).parents[3]
    command = [sys.executable, root / "docs" / "generate_picture.py", "--url", server.url, "--out", tmp_path / "job.png"]
    subprocess.run(command, check=True, capture_output=True)
    for picture in (tmp_path / "job.png", root / "docs" / "pictures" / "job.png"):
        content = picture.read_bytes()
        assert content.startswith(b"\x89PNG")
        assert struct.unpack(">II", content[16:24]) == (1180, 900)
    assert "docs/pictures/job.png" in (root / "README.md").read_text(encoding="utf-8")


def test_a_report_fits_a_phone(chromium: Chromium, world: World) -> None:
    visit = Visit(chromium, world.server, **NARROW).log_in(world.token)
    visit.page.goto(f"/v1/jobs/{world.done}/report.html")
    inner, whole = visit.page.evaluate("[window.innerWidth, document.documentElement.scrollWidth]")
    assert whole <= inner
    heights = visit.page.evaluate("[...document.querySelectorAll('tr')].map((row) => row.offsetHeight)")
    assert max(heights) < 500, "no column is so narrow that its words break"
    visit.check()


def test_the_report_opens_from_its_page(chromium: Chromium, world: World) -> None:
    visit = Visit(chromium, world.server, **WIDE).log_in(world.token)
    visit.page.goto(f"/jobs/{world.done}")
    visit.page.get_by_role("link", name="Report").click()
    visit.page.wait_for_url("**/report.html")
    assert visit.page.locator("table").count() > 2
    visit.check()


def test_progress_comes_by_itself_and_the_end_too(chromium: Chromium, world: World) -> None:
    spec = {"model": world.model, "dataset": world.dataset, "name": "followed", "steps": [{"method": "magnitude_pruning", "sparsity": 0.5}]}
    job = world.client.job(spec)["id"]
    visit = Visit(chromium, world.server, **WIDE).log_in(world.token)
    visit.page.goto(f"/jobs/{job}")
    claim = world.server.claim(job)
    world.server.report(claim, Report(progress={"fraction": 0.37, "message": "epoch 3/8"}))
    visit.page.get_by_text("37 %").wait_for()
    visit.page.get_by_text("epoch 3/8").wait_for()
    with world.server.service.database.unit_of_work() as session:
        jobs.finish(session, claim.job_id, claim.fence, outcome="no_constraints", result=summary(50).model_dump(mode="json"))
    visit.page.get_by_role("button", name="Run again").wait_for()
    visit.check()


def test_a_job_is_written_with_a_form(chromium: Chromium, world: World) -> None:
    visit = Visit(chromium, world.server, **WIDE).log_in(world.token)
    page = visit.page
    page.goto("/new")
    page.get_by_label("Model", exact=True).select_option(world.model)
    page.get_by_label("Dataset", exact=True).select_option(world.dataset)
    page.get_by_label("Method").select_option("magnitude_pruning")
    page.get_by_role("button", name="Add", exact=True).click()
    page.get_by_text("Ready to run").wait_for()
    page.get_by_label("Sparsity", exact=True).fill("70")
    page.get_by_text("Not yet").wait_for()
    page.locator("#verdict").get_by_text("/steps/0/sparsity").wait_for()
    page.get_by_label("Sparsity", exact=True).fill("0.7")
    page.get_by_text("Ready to run").wait_for()
    page.get_by_role("button", name="Start the job").click()
    page.wait_for_url("**/jobs/job_*")
    page.get_by_text("Waiting for a worker").wait_for()
    visit.check()


def test_pages_work_without_scripts(chromium: Chromium, world: World) -> None:
    visit = Visit(chromium, world.server, java_script_enabled=False, **NARROW).log_in(world.token)
    page = visit.page
    page.goto(f"/new?method=magnitude_pruning&model={world.model}&dataset={world.dataset}")
    page.get_by_label("Name").fill("without scripts")
    page.get_by_role("button", name="Check").click()
    page.get_by_text("Ready to run").wait_for()
    page.get_by_role("button", name="Start the job").click()
    page.get_by_role("heading", name="without scripts").wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Run again").wait_for()
    page.get_by_role("button", name="Log out").click()
    page.get_by_role("heading", name="Log in").wait_for()
    visit.check()


def test_pages_work_by_keyboard(chromium: Chromium, world: World) -> None:
    visit = Visit(chromium, world.server, **WIDE)
    page = visit.page
    page.goto("/login")
    page.keyboard.type(world.token)
    page.keyboard.press("Enter")
    page.wait_for_url("**/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.getAttribute('href') || document.activeElement.tagName"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none" or reached[-1] == "BODY", reached[-1]
        if reached[-1] == f"/jobs/{world.done}":
            break
    assert {"/models", "/new", f"/jobs/{world.done}"} <= set(reached)
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/jobs/{world.done}")
    visit.check()


def test_files_are_uploaded_from_a_page(chromium: Chromium, world: World, onnx_bytes: bytes, tmp_path: Path) -> None:
    (tmp_path / "mine.onnx").write_bytes(onnx_bytes)
    (tmp_path / "mine.txt").write_bytes(b"not a network")
    visit = Visit(chromium, world.server, **WIDE).log_in(world.token)
    page = visit.page
    page.goto("/models")
    page.get_by_label("File", exact=True).set_input_files(tmp_path / "mine.onnx")
    page.get_by_role("button", name="Upload").click()
    page.wait_for_url("**/models/mdl_*")
    page.get_by_role("heading", name="mine").wait_for()
    visit.check()
    page.goto("/models")
    page.get_by_label("File", exact=True).set_input_files(tmp_path / "mine.txt")
    page.get_by_role("button", name="Upload").click()
    page.locator(".upload-said", has_text=re.compile(r".{11}")).wait_for()
