"""What steps show stands in the readable reports, every figure under its name and in its unit."""

import pytest
from pydantic import ValidationError

from engine.contract.display import MOST_SHOWN, Bar, Bars, Column, Curve, Line, Note, Table
from engine.contract.report import StepReport
from engine.methods.step import StepContext
from engine.reporting.details import MAX_COLUMNS, MAX_ROWS, cells, details
from engine.reporting.drawing import MOST_LINES, curve_svg
from engine.reporting.earlier import shown_before


def step(*shown):
    return StepReport(index=0, method="structured_pruning", title="t", duration_seconds=1, metrics={}, report={}, shown=shown)


def test_a_table_of_mappings_has_one_column_for_each_figure():
    stages = [{"stage": "before", "test.top1": 0.99, "test.cross_entropy": 0.04}, {"stage": "pruned", "test.top1": 0.5}]
    ((title, table),) = details([step(Table.of("Stages", "stage", stages))])
    assert title == "Stages: step 1, structured_pruning"
    assert cells(table) == (
        ("stage", "Top-1 accuracy, test", "Cross-entropy (nats), test"),
        [("before", "99.00 %", "0.0400"), ("pruned", "50.00 %", "–")],
    )


def test_figures_that_are_no_metrics_have_their_units_too():
    rows = [
        {"baseline": "scratch_b", "iterations": 70, "training_macs_count": 12_000, "test.top1": 0.9, "file_bytes": 1500, "x_seconds": 2}
    ]
    assert cells(Table.of("Baselines", "baseline", rows))[1] == [("scratch_b", "70", "12 000", "90.00 %", "1.5 kB", "2.0 s")]


def test_curves_have_one_row_for_each_line_and_a_place_for_every_x():
    share = Column(title="pruned", unit="share")
    lines = (Line(name="a", points=((0.25, 0.9), (0.5, 0.8))), Line(name="b", points=((0.5, 0.7),)))
    header, rows = cells(Curve(title="c", x=share, y=Column.of("test.top1"), lines=lines))
    assert header == ("", "25 % pruned", "50 % pruned")
    assert rows == [("a", "90.00 %", "80.00 %"), ("b", "–", "70.00 %")]


@pytest.mark.parametrize("count", [1, MAX_ROWS, MAX_ROWS + 1, 5000])
def test_long_tables_keep_their_ends(count):
    table = Table.of("Stages", "stage", [{"stage": f"pruned {number}", "test.top1": number / count} for number in range(count)])
    rows = cells(table)[1]
    assert len(rows) == min(count, MAX_ROWS)
    assert (rows[0][0], rows[-1][0]) == ("pruned 0", f"pruned {count - 1}")
    axis = Column(title="x")
    line = Line(name="a", points=tuple((float(number), 1.0) for number in range(count)))
    header, _ = cells(Curve(title="c", x=axis, y=axis, lines=(line,) * 3))
    assert len(header) <= 1 + MAX_COLUMNS


def test_a_diagram_places_larger_values_higher_and_bounds_its_lines():
    axis = Column(title="x")
    line = Line(name="a", points=((0.0, 0.0), (1.0, 1.0)))
    drawing = curve_svg(Curve(title="c", x=axis, y=axis, lines=(line,) * 100))
    assert drawing.count("<polyline") == MOST_LINES
    (left, low), (right, high) = (map(float, point.split(",")) for point in drawing.partition('points="')[2].partition('"')[0].split())
    assert left < right
    assert high < low
    flat = Curve(title="c", x=axis, y=axis, lines=(Line(name="a", points=((0.0, 2.0),)),))
    assert "nan" not in curve_svg(flat)


def test_rows_and_bars_are_complete():
    with pytest.raises(ValidationError, match="one cell for each column"):
        Table(title="t", columns=(Column(title="a"),), rows=((1, 2),))
    with pytest.raises(ValidationError, match="one value for each series"):
        Bars(title="t", series=("a", "b"), bars=(Bar(name="x", values=(1.0,)),))


def test_a_step_shows_its_stages_first_and_no_more_than_fits(tmp_path):
    context = StepContext(seed=0, work=tmp_path, emit=lambda _: None, baseline=None)
    context.reported["stages"] = [{"stage": "before"}, {"stage": "after", "test.top1": 0.5}]
    context.show(Note(text="a note"))
    assert [item.type for item in context.displayed()] == ["table", "note"]
    for _ in range(100):
        context.show(Note(text="more"))
    shown = context.displayed()
    assert len(shown) == MOST_SHOWN
    assert "53 more" in shown[-1].text


def test_earlier_reports_show_what_they_showed():
    def point(ratio, top1):
        return {"ratio": ratio, "pruned_count": 1, "top1": top1, "cross_entropy": 0.0}

    found = {
        "stages": [{"stage": "before", "test.top1": 0.99}],
        "sensitivity": {"unpruned": {"top1": 0.95, "cross_entropy": 0.1}, "curves": {"a": [point(0.25, 0.9)]}},
        "baselines": {"macs_ratio": 4.0, "rows": [{"baseline": "scratch_b", "test.top1": 0.9}]},
        "operators": {"Conv": {"int8": 3, "float": 1}},
    }
    assert [item.type for item in shown_before(step().model_copy(update={"report": found}))] == ["table", "curve", "table", "table"]
    assert shown_before(step().model_copy(update={"report": {"stages": [{"stage": "before"}]}})) == ()
