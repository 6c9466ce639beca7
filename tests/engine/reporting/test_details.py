"""What steps found out stands in the readable reports, too, with every figure under its name."""

import pytest

from engine.reporting.details import MAX_RATIOS, MAX_ROWS, detail_tables


def step(**found):
    return {"index": 0, "method": "structured_pruning", "report": found}


def test_stages_have_one_column_for_each_figure():
    stages = [{"stage": "before", "test.top1": 0.99, "test.cross_entropy": 0.04}, {"stage": "pruned", "test.top1": 0.5}]
    (table,) = detail_tables([step(stages=stages)])
    assert table.title == "Stages of step 1, structured_pruning"
    assert table.header == ("stage", "Top-1 accuracy, test", "Cross-entropy (nats), test")
    assert table.rows == [("before", "99.00 %", "0.0400"), ("pruned", "50.00 %", "–")]


def test_curves_have_one_row_for_each_layer_and_a_place_for_every_ratio():
    def point(ratio, top1):
        return {"ratio": ratio, "pruned_count": 1, "top1": top1, "cross_entropy": 0.0}

    curves = {"a": [point(0.25, 0.9), point(0.5, 0.8)], "b": [point(0.5, 0.7)]}
    (table,) = detail_tables([step(sensitivity={"unpruned": {"top1": 0.95}, "curves": curves})])
    assert table.title.endswith("(whole: 95.00 %)")
    assert table.header == ("layer", "25 % pruned", "50 % pruned")
    assert table.rows == [("a", "90.00 %", "80.00 %"), ("b", "–", "70.00 %")]


def test_baselines_say_what_they_reached_and_spent():
    rows = [{"baseline": "scratch_b", "iterations": 70, "training_macs_count": 12_000, "test.top1": 0.9}]
    (table,) = detail_tables([step(baselines={"macs_ratio": 4.0, "rows": rows})])
    assert table.rows == [("scratch_b", "70", "12 000", "90.00 %")]


@pytest.mark.parametrize("count", [1, MAX_ROWS, MAX_ROWS + 1, 5000])
def test_long_tables_keep_their_ends(count):
    stages = [{"stage": f"pruned {number}", "test.top1": number / count} for number in range(count)]
    curve = [{"ratio": number / count, "top1": 1.0} for number in range(count)]
    table, curves = detail_tables([step(stages=stages, sensitivity={"unpruned": {"top1": 1.0}, "curves": {"a": curve}})])
    assert len(table.rows) == min(count, MAX_ROWS)
    assert (table.rows[0][0], table.rows[-1][0]) == ("pruned 0", f"pruned {count - 1}")
    assert len(curves.header) <= 1 + MAX_RATIOS


def test_steps_without_figures_have_no_tables():
    assert list(detail_tables([step(stages=[{"stage": "before"}]), step()])) == []
