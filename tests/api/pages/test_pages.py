"""Every page shows what is there, of its own project only, and what strangers called their things does no harm."""

import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest

from core import jobs
from core.access import keys
from core.access.keys import Scope
from core.jobs import NewArtifact, NewEvent, Point, Report
from engine.reporting.document import read
from tests.api.conftest import DATASET_INSPECTION, MODEL_INSPECTION, Client, Server
from tests.api.pages.conftest import Browser
from tests.results import summary

REPORT = read((Path(__file__).parents[1] / "report.json").read_bytes())
HOSTILE = """"><script>alert(1)</script><img src=x onerror=alert(1)>'{{7*7}}"""
TABS = ("", "/settings", "/steps", "/training", "/layers", "/graph", "/artifacts", "/logs", "/spec", "/events")


class _Tags(HTMLParser):
    """The tags of a page, and whether every one is closed in order."""

    VOID = frozenset({"meta", "link", "input", "img", "br", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open[-1] != tag:
            assert self.open[-1] in ("p", "li"), f"<{self.open[-1]}> is not closed before </{tag}>"
            self.open.pop()
        assert self.open, f"</{tag}> closes nothing"
        self.open.pop()


def page(answer: httpx.Response, *wanted: str) -> str:
    """The text of a page that is whole, harmless and small."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    tags = _Tags(answer.text)
    assert tags.open == []
    for tag, attributes in tags.seen:
        assert tag != "script" or (attributes.get("src") or "").startswith("/static/")
        assert not any(name.startswith("on") or name == "style" for name in attributes), (tag, attributes)
    assert len(answer.content) < 300_000
    for text in wanted:
        assert text in answer.text, text
    return answer.text


@pytest.fixture
def finished(server: Server, client: Client, spec: dict[str, Any]) -> dict[str, Any]:
    """A job that succeeded with a report, a model, series, a log and labels."""
    job = client.job({**spec, "name": "smaller", "labels": {"team": "vision"}})
    claim = server.claim(job["id"])
    points = [Point("train.loss", 1 / epoch, epoch, None, 0) for epoch in range(1, 5)]
    server.report(claim, Report(progress={"fraction": 0.5, "message": "epoch 2"}, metrics=points, log="hello <b>log</b>\n"))
    blobs = server.service.blobs
    report = blobs.put_bytes(REPORT.model_dump_json().encode())
    files = [NewArtifact("model", "onnx", "model.onnx", blobs.put_bytes(b"onnx")), NewArtifact("report", "json", "report.json", report)]
    with server.service.database.unit_of_work() as session:
        jobs.finish(
            session, claim.job_id, claim.fence, outcome="constraints_met", result=summary().model_dump(mode="json"), artifacts=files
        )
    return job


def test_the_jobs(browser: Browser, finished: dict[str, Any], client: Client, spec: dict[str, Any]) -> None:
    waiting = client.job({**spec, "name": "waiting"})
    text = page(browser.get("/"), "smaller", "waiting", "constraints met", f"/jobs/{waiting['id']}", 'hx-trigger="every 2s"')
    assert text.index("waiting") < text.index("smaller"), "newest first"
    page(browser.get("/?status=succeeded"), "smaller", 'hx-trigger="every 15s"')
    assert "waiting" not in browser.get("/?status=succeeded").text.replace("Waiting", "")
    page(browser.get("/?label=team:vision"), "smaller", "label team:vision")
    page(browser.get("/?label=team:none"), "No such jobs")
    part = browser.get("/", headers={"HX-Request": "true"})
    assert "<html" not in part.text
    assert '<tbody id="jobs"' in part.text


def test_no_jobs_yet(browser: Browser) -> None:
    page(browser.get("/"), "No jobs yet", "Upload a model")


def test_older_jobs_are_on_further_pages(browser: Browser, client: Client, spec: dict[str, Any]) -> None:
    for number in range(27):
        client.job({**spec, "name": f"job number {number}"})
    first = page(browser.get("/"), "job number 26", "job number 2<")
    assert "job number 1<" not in first
    older = re.search(r'href="(/\?after=[^"]+)">Older', first)
    assert older is not None
    page(browser.get(older[1]), "job number 1<", "job number 0<", "Newest")


@pytest.mark.parametrize("tab", TABS)
def test_the_tabs_of_a_job(browser: Browser, finished: dict[str, Any], tab: str) -> None:
    wanted = {
        "": (REPORT.sentence[:20], "Before and after"),
        "/settings": ("has no settings",),
        "/steps": (REPORT.steps[0].title,),
        "/training": ("<polyline", "loss: step 1"),
        "/layers": (REPORT.layers[0].name, "Bytes of each layer"),
        "/graph": ("/static/netron/view?url=%2Fjobs%2F", "After: model.onnx"),
        "/artifacts": ("model.onnx", "report.json", "curl"),
        "/logs": ("hello &lt;b&gt;log",),
        "/spec": ("magnitude_pruning", finished["id"]),
        "/events": ("succeeded",),
    }[tab]
    page(browser.get(f"/jobs/{finished['id']}{tab}"), "smaller", "team: vision", *wanted)


@pytest.mark.parametrize("path", ["/", "/compare?job={0}&job={1}", *(f"/jobs/{{0}}{tab}" for tab in TABS)])
def test_results_of_another_version_are_left_out(server: Server, browser: Browser, client: Client, spec: dict[str, Any], path: str) -> None:
    job, other = client.job({**spec, "name": "of old"}), client.job({**spec, "name": "waits"})
    claim = server.claim(job["id"])
    old = server.service.blobs.put_bytes(b'{"report_version": 0, "what": "was"}')
    with server.service.database.unit_of_work() as session:
        files = [NewArtifact("report", "json", "report.json", old)]
        jobs.finish(session, claim.job_id, claim.fence, outcome="constraints_met", result={"baseline": {}, "size": 7}, artifacts=files)
    page(browser.get(path.format(job["id"], other["id"])), "of old")


def test_a_job_that_runs_is_followed(server: Server, browser: Browser, client: Client, spec: dict[str, Any]) -> None:
    job = client.job(spec)
    path = f"/jobs/{job['id']}"
    page(browser.get(path), "Waiting for a worker", f'hx-get="{path}/live"')
    claim = server.claim(job["id"])
    server.report(claim, Report(progress={"fraction": 0.25, "message": "epoch 1", "eta_seconds": 90.0}))
    _until(browser, f"{path}/live", "25 %", "2 min left", "epoch 1")
    assert "HX-Refresh" not in browser.get(f"{path}/live").headers
    with server.service.database.unit_of_work() as session:
        jobs.fail(session, claim.job_id, claim.fence, jobs.JobError.of("out_of_memory", "resource", "no memory", hint="use less"))
    _until(browser, path, "No memory", "Use less", "out_of_memory")
    ended = browser.get(f"{path}/live", headers={"HX-Request": "true"})
    assert ended.headers["hx-refresh"] == "true"


def _until(browser: Browser, path: str, *wanted: str) -> None:
    """What is shown may be a moment old."""
    deadline = time.monotonic() + 3
    while any(text not in (found := browser.get(path).text) for text in wanted):
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def test_buttons_of_a_job(browser: Browser, client: Client, spec: dict[str, Any]) -> None:
    job = client.job(spec)
    path = f"/jobs/{job['id']}"
    assert browser.get(path).text.count("Cancel") == 1
    cancelled = browser.fill(f"{path}/cancel", path)
    assert (cancelled.status_code, cancelled.headers["location"]) == (303, path)
    page(browser.get(path), "cancelled", "Run again")
    again = browser.fill(f"{path}/again", path)
    assert again.status_code == 303
    assert again.headers["location"] != path
    page(browser.get(again.headers["location"]), "Again after")
    assert browser.fill(f"{again.headers['location']}/delete", path).status_code == 409, "it has not ended"
    assert browser.fill(f"{path}/delete", path).headers["location"] == "/"
    gone = browser.get(path)
    assert gone.status_code == 404
    assert "Not found" in gone.text


def test_models_and_datasets(browser: Browser, client: Client, spec: dict[str, Any]) -> None:
    page(browser.get("/models"), spec["model"], "ready", "n × 4")
    page(browser.get(f"/models/{spec['model']}"), "MatMul", "logits", "Compress", "n × 3")
    page(browser.get("/datasets"), spec["dataset"], "ready")
    page(browser.get(f"/datasets/{spec['dataset']}"), "First examples of train", "Classes")
    assert browser.fill(f"/models/{spec['model']}/delete", "/models").headers["location"] == "/models"
    assert browser.get(f"/models/{spec['model']}").status_code == 404
    assert browser.fill(f"/datasets/{spec['dataset']}/delete", "/models").headers["location"] == "/datasets"
    page(browser.get("/datasets"), "No datasets yet")


def test_pictures_of_examples(server: Server, browser: Browser, client: Client, npz_bytes: bytes) -> None:
    values = [[0, 255, 0, 255]] * 4
    example = {"index": 0, "label": 1, "inputs": {"x": {"minimum": 0, "maximum": 255, "mean": 127.5, "values": values}}}
    dataset = client.dataset(npz_bytes, name="pictures")
    server.inspected(dataset["id"], {**DATASET_INSPECTION, "preview": {"train": [example]}})
    page(browser.get(f"/datasets/{dataset['id']}"), 'src="data:image/png;base64,', "class 1")


def test_names_of_strangers_are_text(server: Server, browser: Browser, client: Client, onnx_bytes: bytes, npz_bytes: bytes) -> None:
    model, dataset = client.model(onnx_bytes, name=HOSTILE), client.dataset(npz_bytes, name=HOSTILE)
    tensor = {"name": HOSTILE, "shape": [None, 4], "dtype": HOSTILE}
    layer = {**MODEL_INSPECTION["layers"][0], "name": HOSTILE, "type": HOSTILE}
    inspection = {
        **MODEL_INSPECTION,
        "signature": {**MODEL_INSPECTION["signature"], "outputs": [tensor]},
        "operators": {HOSTILE: 1},
        "layers": [layer],
    }
    server.inspected(model["id"], inspection)
    server.inspected(dataset["id"], {**DATASET_INSPECTION, "classes": [HOSTILE] * 3, "columns": [*DATASET_INSPECTION["columns"], tensor]})
    steps = [{"method": "magnitude_pruning", "sparsity": 0.5}]
    job = client.job({"model": model["id"], "dataset": dataset["id"], "steps": steps, "name": HOSTILE, "labels": {"k": HOSTILE[:60]}})
    claim = server.claim(job["id"])
    server.report(
        claim,
        Report(
            progress={"fraction": 0.5, "message": HOSTILE},
            metrics=[Point(f"train.{HOSTILE}", 1.0, step, HOSTILE[:32], 0) for step in range(3)],
            log=f"2026-01-01T00:00:00.000Z error {HOSTILE}\n{HOSTILE}\n",
            events=[NewEvent("note", {"text": HOSTILE})],
        ),
    )
    paths = ["/", "/models", "/datasets", f"/models/{model['id']}", f"/datasets/{dataset['id']}"]
    paths += [f"/jobs/{job['id']}{tab}" for tab in (*TABS, "/live") if tab not in ("/settings", "/steps", "/layers")]
    for path in paths:
        text = page(browser.get(path))
        assert "<script>alert" not in text, path
        assert "49" not in re.sub(r"[0-9a-z_]{20,}", "", text).split("<main")[-1].split("'")[0], "no template in a template"
    with server.service.database.unit_of_work() as session:
        jobs.fail(session, claim.job_id, claim.fence, jobs.JobError.of("model_invalid", "user", HOSTILE, hint=HOSTILE))
    for path in (f"/jobs/{job['id']}/summary", f"/jobs/{job['id']}", "/?label=" + HOSTILE):
        assert "<script>alert" not in browser.get(path).text


def test_another_projects_things_are_on_no_page(server: Server, browser: Browser, stranger: Client, finished: dict[str, Any]) -> None:
    with Browser(server) as other:
        other.log_in(stranger.token)
        page(other.get("/"), "No jobs yet")
        for tab in (*TABS, "/live"):
            answer = other.get(f"/jobs/{finished['id']}{tab}")
            assert answer.status_code == 404
            assert "smaller" not in answer.text
        assert browser.get(f"/jobs/{finished['id']}").status_code == 200
        assert other.get(f"/jobs/{finished['id']}").status_code == 404, "what was made for others is not shared"


def test_a_key_sees_what_its_scopes_name(server: Server, client: Client, finished: dict[str, Any]) -> None:
    with server.service.database.reader() as session:
        project_id = keys.verify(session, client.token or "").project_id
    with server.service.database.unit_of_work() as session:
        _, token = keys.create(session, project_id, "narrow", scopes=[Scope.JOBS_READ])
    with Browser(server) as narrow:
        narrow.log_in(token)
        text = page(narrow.get(f"/jobs/{finished['id']}"))
        assert "Run again" not in text, "what the key may not do is not offered"
        assert "Artifacts" not in text
        assert narrow.get(f"/jobs/{finished['id']}/artifacts").status_code in (200, 403)
        assert "model.onnx" not in narrow.get(f"/jobs/{finished['id']}/artifacts").text
        assert narrow.get(f"/jobs/{finished['id']}/artifacts").text.count("sha") == 0
        assert ">m</a>" not in narrow.get("/").text, "models have names for those who may read models"


def test_ids_and_tabs_that_cannot_be(browser: Browser, finished: dict[str, Any]) -> None:
    for path in (
        "/jobs/x",
        f"/jobs/{finished['id']}/nothing",
        "/models/mdl_é",
        "/datasets/%00",
        "/jobs",
        f"/jobs/{finished['id']}/logs?lines=0",
    ):
        assert browser.get(path).status_code in (404, 422), path
    assert browser.get("/?status=tired").status_code == 422
    assert browser.get("/?after=x").status_code == 400
