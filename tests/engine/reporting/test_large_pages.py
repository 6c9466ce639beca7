"""The page of any job is small, its diagrams have round numbers, and what was left out is counted."""

import copy
import json
import re
from itertools import pairwise
from typing import Any

import pytest

from engine.contract.display import Bar, Bars, Column, Curve, Line
from engine.contract.figures import QUANTILES
from engine.methods.training_curves import training_curves
from engine.reporting import document as report
from engine.reporting.drawing import _Scale, bars_svg, curve_svg
from engine.reporting.html import to_html
from engine.reporting.text import count_text, number_text, tick_text
from tests.engine.reporting.test_document import document  # noqa: F401 - a fixture

WORST = '"' * 200
"""A name of characters that are written as six."""


def grown(found: dict[str, Any]) -> dict[str, Any]:
    """The report of a job that has as much of everything as a job may have, under names as long as they may be."""
    found = copy.deepcopy(found)
    column = {"title": WORST, "unit": ""}
    line = {"name": WORST, "points": [[number, number % 7] for number in range(60)]}
    found["name"] = WORST[:200]
    found["steps"][0]["shown"] = [
        {"type": "table", "title": WORST, "columns": [column] * 64, "rows": [[WORST] * 64] * 8},
        {"type": "curve", "title": WORST, "x": column, "y": column, "lines": [line] * 30},
        {"type": "bars", "title": WORST, "series": [WORST] * 4, "bars": [{"name": WORST, "values": [1, 2, 3, 4]}] * 100},
        {"type": "note", "text": WORST * 10},
    ]
    found["steps"] = [{**found["steps"][0], "index": index, "title": WORST, "method": WORST} for index in range(8)]
    found["layers"] = [{**found["layers"][0], "name": WORST, "type": WORST} for _ in range(1000)]
    found["warnings"] = [{"code": WORST, "message": WORST * 3, "step_index": None, "details": {}}] * 1000
    found["artifacts"] = [{**found["artifacts"][0], "filename": WORST}] * 300
    found["spec"] = {"name": WORST * 500}
    only = report.read(json.dumps(found)).settings[0].model_dump(mode="json")
    found["settings"] = [{**only, "setting": {"name": f"{index}" + WORST[:60], "values": {}}} for index in range(64)]
    return found


def test_the_page_of_any_job_is_small(document: dict[str, Any]) -> None:  # noqa: F811
    page = to_html(report.read(json.dumps(grown(document))))
    assert len(page.encode()) < 400_000
    assert re.search(r"\d+ more layers are in report.json", page)
    assert re.search(r"\d+ more tables and diagrams are in report.json", page)
    assert re.search(r"\d+ further warnings are in report.json", page)


def test_the_page_says_which_job_it_is_and_where_its_files_are(document: dict[str, Any]) -> None:  # noqa: F811
    found = report.read(json.dumps({**document, "finished_at": "2026-05-04T03:02:01Z"}))
    name = found.artifacts[0].filename
    page = to_html(found, {name: "/v1/artifacts/art_1/content"})
    assert f"<code>{found.job_id}</code>, 2026-05-04 03:02 UTC" in page
    assert f'<a href="/v1/artifacts/art_1/content" download>{name}</a>' in page
    assert "<a " not in to_html(found)


def test_the_distribution_of_latencies_is_drawn(document: dict[str, Any]) -> None:  # noqa: F811
    assert "Latency of single runs" not in to_html(report.read(json.dumps(document)))
    found = copy.deepcopy(document)
    for side in ("baseline", "result"):
        times = [0.1 * (1 + share) for share in QUANTILES]
        found[side]["latencies"] = [{**found[side]["latency_ms"], "quantiles": times}]
        found[side]["latency_ms"] = found[side]["latencies"][0]
    found.pop("settings", None)
    assert "Latency of single runs" in to_html(report.read(json.dumps(found)))


def test_epochs_become_curves() -> None:
    records = [{"epoch": epoch, "learning_rate": 0.1, "train.loss": 1 / epoch, "validation.loss": 2 / epoch} for epoch in (1, 2, 3)]
    (curve,) = training_curves([*records, {"epoch": 1, "train.loss": 0.2}])
    assert (curve.title, curve.x.title) == ("Training: loss", "epoch")
    lines = {line.name: line.points for line in curve.lines}
    assert lines["train"] == ((1, 1), (2, 0.5), (3, 1 / 3), (4, 0.2)), "epochs of a second training are counted on"
    assert lines["validation"] == ((1, 2), (2, 1), (3, 2 / 3))
    assert list(training_curves(records[:1])) == []
    assert list(training_curves([])) == []


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 5, [0, 1, 2, 3, 4, 5]),
        (1, 5, [1, 2, 3, 4, 5]),
        (0.9906, 0.992, [0.991, 0.9915, 0.992]),
        (108_428, 1_564_686, [500_000, 1_000_000, 1_500_000]),
        (3, 3, [3]),
        (-2, 2, [-2, -1, 0, 1, 2]),
        (0, 0, [0]),
    ],
)
def test_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    found = _Scale(low, high, 0, 100).ticks()
    assert all(any(value == pytest.approx(tick) for value in found) for tick in ticks), found
    assert 2 <= len(found) <= 12
    assert len({round(b - a, 12) for a, b in pairwise(found)}) == 1, "evenly apart"


def test_neighbouring_ticks_read_differently() -> None:
    for low, high, unit in ((0.9906, 0.992, "share"), (1e5, 1.5e6, "bytes"), (1e6, 1.00001e6, ""), (1e-9, 3e-9, ""), (0.05, 0.06, "ms")):
        scale = _Scale(low, high, 0, 100)
        told = [tick_text(value, unit, scale.step) for value in scale.ticks()]
        assert len(set(told)) == len(told), told


def test_small_bars_can_be_seen() -> None:
    bars = Bars(
        title="b", unit="bytes", bars=(Bar(name="large", values=(1e9,)), Bar(name="small", values=(1.0,)), Bar(name="none", values=(0.0,)))
    )
    widths = [float(width) for width in re.findall(r'<rect[^>]* width="([0-9.]+)"', bars_svg(bars))]
    assert widths[0] > 100 * widths[1]
    assert widths[1] >= 2
    assert widths[2] == 0


def test_a_line_of_one_point_is_a_dot_that_says_its_value() -> None:
    curve = Curve(
        title="c", x=Column(title="x", unit="bytes"), y=Column(title="y", unit="share"), lines=(Line(name="a", points=((1000, 0.5),)),)
    )
    drawing = curve_svg(curve)
    assert "<polyline" not in drawing
    assert "<title>a: 50.00 % at 1 kB</title>" in drawing


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.94, "59.9 s"), (119, "119.0 s"), (180, "3.0 min"), (7200, "2.0 h"), (864_000, "10.0 days")]
)
def test_lengths_of_time(seconds: float, text: str) -> None:
    assert number_text(seconds, "seconds") == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0, "0"), (9999, "9 999"), (12_345, "12.3 k"), (390_410, "390 k"), (7_748_608, "7.75 M")]
)
def test_large_counts(value: float | None, text: str) -> None:
    assert count_text(value) == text
