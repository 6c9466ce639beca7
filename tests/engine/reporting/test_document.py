"""Reports are rendered from their JSON alone: built by hand here, hostile where strangers choose the words."""

import copy
import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from engine.contract.report import UnreadableReport
from engine.reporting import document as report
from engine.reporting.sentence import sentence

EVIL = "<script>alert(1)</script>|`x`\n# \" onmouseover='y'"


def side(top1: float, bytes_: int, p50: float) -> dict[str, Any]:
    latency = {"p50": p50, "p95": p50 * 1.2, "batch_size": 1, "threads": 1, "runtime": "onnxruntime 1.32 CPU", "runs_count": 9}
    return {
        "metrics": {"test.top1": top1, "test.agreement": 0.99, "test.sqnr_db": 31.0},
        "file_bytes": bytes_,
        "gzip_bytes": bytes_ // 2,
        "params_count": bytes_ // 4,
        "nonzero_params_count": bytes_ // 4,
        "macs_count": 1000,
        "latency_ms": latency,
        "latencies": [latency],
    }


@pytest.fixture
def document() -> dict[str, Any]:
    layer = {"shape": [8, 1, 3, 3], "params_count": 72, "bytes": 288, "bits": 32, "sparsity": 0.0}
    file = {"id": "mdl_a", "name": "net.onnx", "format": "onnx", "size_bytes": 4000, "sha256": "ab" * 32}
    found = {
        "report_version": 1,
        "job_id": "job_a",
        "name": "digits",
        "outcome": "constraints_not_met",
        "baseline": side(0.9906, 1_580_159, 2.0),
        "result": side(0.9716, 112_000, 3.0),
        "verdict": "slower",
        "comparison": {
            "file_ratio": 14.1,
            "gzip_ratio": 14.1,
            "params_ratio": 14.1,
            "macs_ratio": 1.0,
            "metric_changes": {"test.top1": -0.019, "test.agreement": 0.0, "test.sqnr_db": 0.0},
            "latencies": [{"batch_size": 1, "speedup": 0.67, "speedup_low": 0.6, "speedup_high": 0.7, "verdict": "slower"}],
        },
        "intervals": {"baseline": {"test.top1": [0.988, 0.992]}, "result": {"test.top1": [0.968, 0.975]}},
        "evaluation": {"split": "test", "examples_count": 10_000, "inputs": "dataset"},
        "constraints": [
            {"name": "accuracy.max_drop", "limit": 0.01, "value": 0.019, "met": False, "metric": "test.top1"},
            {"name": "max_file_bytes", "limit": 200_000, "value": 112_000, "met": True},
        ],
        "steps": [
            {
                "index": 0,
                "id": None,
                "method": "static_quantization",
                "title": "Static int8 quantization",
                "metrics": {"test.top1": 0.9716, "params_count": 28_000},
                "report": {"operators": {"Conv": {"int8": 3, "float": 1}}},
                "duration_seconds": 1.5,
            }
        ],
        "kept_step_index": 0,
        "layers": [{"name": "conv1", "type": "Conv", "before": layer, "after": {**layer, "bits": 8, "bytes": 72}}],
        "environment": {
            "cpu_model": "Some CPU",
            "cpu_count": 2,
            "cpu_flags": ["avx2"],
            "packages": {"torch": "2.13.0"},
            "system": "Linux",
            "machine": "x86_64",
            "python": "3.11",
            "engine_version": "0.1.0",
            "threads": 1,
            "device": "cpu",
            "seed": 0,
        },
        "warnings": [{"code": "latency_regressed", "message": "slower than before"}],
        "artifacts": [{"filename": "model.onnx", "kind": "model", "format": "onnx", "size_bytes": 112_000, "sha256": "cd" * 32}],
        "inputs": {"model": file, "dataset": {**file, "name": "data.npz", "format": "npz"}, "teachers": {}},
        "spec": {"steps": [{"method": "static_quantization"}]},
        "spec_hash": "sha256:00",
        "references": [],
        "duration_seconds": 3.0,
    }
    return {**found, "sentence": sentence(report.read(json.dumps(found)))}


def html(document: dict[str, Any]) -> str:
    return report.to_html(report.read(json.dumps(document)))


def markdown(document: dict[str, Any]) -> str:
    return report.to_markdown(report.read(json.dumps(document)))


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_sentence_says_what_was_won_and_lost(document: dict[str, Any]) -> None:
    assert document["sentence"] == (
        "14.1× smaller, top-1 -1.90 points (99.06 % → 97.16 %), 1.49× slower on onnxruntime 1.32 CPU (1 thread, batch 1);"
        " missed: accuracy.max_drop is 0.019, the limit is 0.01."
    )


@pytest.mark.parametrize("render", [html, markdown])
def test_every_section_is_there(document: dict[str, Any], render: Any) -> None:
    text = render(document)
    text = Page(text).text if render is html else text.replace("\\", "")
    for part in ("99.06 %", "97.16 %", "98.80–99.20", "slower", "missed", "conv1", "8×1×3×3, 8 bit", "latency_regressed", "Some CPU"):
        assert part in text
    assert "modelpress run report.json --model net.onnx --data data.npz" in text


def test_the_page_stands_alone(document: dict[str, Any]) -> None:
    page = Page(html(document))
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert not [value for name, value in page.attributes if name in ("src", "href") or name.startswith("on")]
    assert "svg" in page.tags


def test_hostile_names_stay_text(document: dict[str, Any]) -> None:
    hostile = copy.deepcopy(document)
    hostile["name"] = hostile["warnings"][0]["message"] = hostile["layers"][0]["name"] = hostile["inputs"]["model"]["name"] = EVIL
    hostile["steps"][0]["title"] = hostile["steps"][0]["method"] = hostile["spec"]["name"] = EVIL
    hostile["environment"]["cpu_model"] = EVIL
    clean, page = Page(html(document)), Page(html(hostile))
    assert page.tags == clean.tags
    assert [name for name, _ in page.attributes] == [name for name, _ in clean.attributes]
    text = markdown(hostile)
    assert "<script>" not in text.partition("```sh")[0]
    layers = [line for line in text.splitlines() if "8×1×3×3" in line]
    assert layers[0].replace("\\|", "").count("|") == 7


def test_a_large_network_gives_a_small_page(document: dict[str, Any]) -> None:
    document["layers"] = [{**document["layers"][0], "name": f"{'block.' * 500}{i}"} for i in range(3000)]
    page = html(document)
    assert len(page.encode()) < 200_000
    assert "2800 more layers" in page


def test_rendering_needs_no_numerical_library() -> None:
    code = (
        "import sys, engine.reporting.document; print([m for m in ('numpy', 'torch', 'onnx', 'onnxruntime', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.stdout.strip() == "[]"


def test_pages_show_a_hundred_warnings_and_count_the_rest(document: dict[str, Any]) -> None:
    document["warnings"] = [{"code": "w", "message": f"number {number}", "step_index": None, "details": {}} for number in range(40_000)]
    for page in (html(document), markdown(document)):
        assert "number 99" in page
        assert "number 100" not in page
        assert "39900 further warnings are in report.json" in page
        assert len(page) < 200_000


def test_a_report_of_another_version_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(UnreadableReport) as caught:
        report.read(json.dumps({**document, "report_version": 2}))
    assert caught.value.code == "report_unreadable"
    assert "version 2" in caught.value.message
    with pytest.raises(UnreadableReport, match="outcome"):
        report.read(json.dumps({key: value for key, value in document.items() if key != "outcome"}))


def test_a_report_of_before_there_were_settings_is_completed(document: dict[str, Any]) -> None:
    found = report.read(json.dumps(document))
    (only,) = found.settings
    assert (only.setting.name, only.figures, only.verdict.constraints) == ("", found.result, found.constraints)
    assert "Operators that the runtime executes" in html(document)
    assert "Settings" not in markdown(document)


def test_keys_that_are_added_later_do_no_harm(document: dict[str, Any]) -> None:
    assert report.read(json.dumps({**document, "more": 1, "evaluation": {**document["evaluation"], "more": 2}})).job_id == "job_a"


def test_every_setting_has_its_row(document: dict[str, Any]) -> None:
    only = report.read(json.dumps(document)).settings[0].model_dump(mode="json")
    names = ("width 1", "width 0.5")
    document["settings"] = [{**only, "setting": {"name": name, "values": {"width": float(name[6:])}}} for name in names]
    for text in (Page(html(document)).text, markdown(document)):
        for name in names:
            assert f"{name} (width {float(name[6:])})" in text


def test_a_page_draws_what_it_is_given(document: dict[str, Any]) -> None:
    document["settings"] = [report.read(json.dumps(document)).settings[0].model_dump(mode="json")]
    axis = {"title": EVIL, "unit": "share"}
    document["steps"][0]["shown"] = [
        {"type": "table", "title": EVIL, "columns": [axis, {"title": "size", "unit": "bytes"}], "rows": [[0.5, 2000], [None, EVIL]]},
        {
            "type": "curve",
            "title": "c",
            "x": axis,
            "y": axis,
            "lines": [{"name": EVIL, "points": [[0, 1], [1, 0.25]]}, {"name": "b", "points": []}],
        },
        {"type": "bars", "title": "b", "unit": "ms", "series": ["before", "after"], "bars": [{"name": EVIL, "values": [1.5, None]}]},
        {"type": "note", "text": EVIL},
    ]
    page = Page(html(document))
    assert not {"script", "img", "foreignobject"} & set(page.tags)
    assert {name for name, _ in page.attributes if name.startswith("on")} == set()
    assert {"polyline", "rect", "circle"} <= set(page.tags)
    for part in ("50.00 %", "2 kB", "1.5 ms", "25.00 %", EVIL[:20]):
        assert part in page.text
    text = markdown(document)
    assert "<script>" not in text.partition("```sh")[0]
    assert "50.00 %" in text
