"""Numbers of a report in words that people read."""

import math
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from engine.contract.display import Cell, Column
from engine.contract.figures import ConstraintCheck, Figures, Measured, Result
from engine.contract.metric import Key, first_of
from engine.contract.report import Interval, Report

IDENTICAL_DB = 200.0
"""What equal outputs are given, as JSON has no infinity."""
FIGURES = (
    ("file_bytes", "File"),
    ("gzip_bytes", "File after gzip"),
    ("params_count", "Parameters"),
    ("nonzero_params_count", "Parameters that are not zero"),
    ("macs_count", "Multiply-accumulates an example"),
)
MOST_WARNINGS = 100
"""Warnings that a page shows; the JSON document has all of them."""
Row = tuple[str, ...]
_UNITS = ("B", "kB", "MB", "GB", "TB")


def number_text(value: Cell, unit: str = "") -> str:
    """A number with its unit; text as it is."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    match unit:
        case "share":
            return f"{100 * value:.2f} %"
        case "dB":
            return "identical" if value >= IDENTICAL_DB else f"{value:.1f} dB"
        case "bytes":
            return bytes_text(value)
        case "count":
            return f"{value:,.0f}".replace(",", " ")
        case "ms":
            return f"{value:.3g} ms"
        case "seconds":
            return seconds_text(value)
        case "ratio":
            return ratio_text(value)
        case "nats" | "":
            return f"{value:,}".replace(",", " ") if isinstance(value, int) else f"{value:.4f}"
        case _:
            return f"{value:.4g} {unit}"


def place_text(value: float, unit: str) -> str:
    """A place on an axis, in short."""
    return f"{100 * value:.3g} %" if unit == "share" else f"{value:.3g}" if unit in ("", "nats", "count") else number_text(value, unit)


def tick_text(value: float, unit: str, step: float) -> str:
    """A round value at an axis, with as many digits as tell it from its neighbours, which are `step` away."""
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    match unit:
        case "share":
            return f"{100 * value:.{max(0, digits - 2)}f} %"
        case "bytes":
            return bytes_text(value)
        case "count":
            return count_text(value)
        case "ratio":
            return f"{value:.{digits}f}×"
        case _:
            text = f"{value:.3g}" if digits > 6 or step >= 1e4 else f"{value:.{digits}f}"
            return f"{text} {unit}" if unit not in ("", "nats") else text


def count_text(value: float | None) -> str:
    """A large number in short: 1.25 M."""
    if value is None:
        return "–"
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= max(size, 1e4):
            return f"{value / size:.3g} {unit}"
    return number_text(value, "count")


def key_text(key: str, value: float | None) -> str:
    """A figure by its key, such as `test.top1` or `params_count`."""
    return number_text(value, Column.of(key).unit)


def seconds_text(value: float) -> str:
    """A length of time in the units that people use for it."""
    if value < 120:
        return f"{value:.1f} s"
    if value < 7200:
        return f"{value / 60:.1f} min"
    return f"{value / 3600:.1f} h" if value < 172_800 else f"{value / 86_400:.1f} days"


def moment_text(moment: datetime) -> str:
    """A moment to the minute, in UTC."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def bytes_text(value: float) -> str:
    """Bytes in decimal units."""
    for unit in _UNITS:
        if value < 1000 or unit == _UNITS[-1]:
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}" if value < 100 else f"{value:.0f} {unit}"


def ratio_text(value: float | None) -> str:
    """How many times."""
    if value is None:
        return "–"
    return f"{value:.1f}×" if value >= 10 else f"{value:.2f}×"


def change_text(key: str, change: float | None) -> str:
    """How much a metric moved; nothing for one that compares with the baseline itself."""
    metric = Key.parse(key).metric
    if change is None or metric is None or metric.needs == "baseline":
        return "–"
    return f"{100 * change:+.2f} points" if metric.unit == "share" else f"{change:+.4g}"


_CONSTRAINTS = {
    "accuracy.max_drop": "largest loss",
    "accuracy.min": "at least",
    "max_file_bytes": "file at most",
    "max_params_count": "parameters at most",
    "max_macs_count": "operations at most",
    "max_latency_ms": "latency at most",
    "min_speedup": "speed at least",
}


def constraint_row(item: ConstraintCheck) -> Row:
    """A target: what it limits, the limit, what was measured, and whether it was met."""
    unit = _constraint_unit(item)
    name = f"{item.name} ({item.metric})" if item.metric is not None else item.name
    return (name, number_text(item.limit, unit), number_text(item.value, unit), "met" if item.met else "missed")


def constraint_words(item: ConstraintCheck) -> str:
    """A target in a few words."""
    name = _CONSTRAINTS.get(item.name, item.name.replace("_", " "))
    about = "" if item.metric is None else f"{Column.of(item.metric).title}: "
    return f"{about}{name} {number_text(item.limit, _constraint_unit(item))}"


def _constraint_unit(item: ConstraintCheck) -> str:
    if item.drop_type == "relative":
        return "share"
    if item.metric is not None:
        return Column.of(item.metric).unit
    return "ratio" if item.name == "min_speedup" else Column.of(item.name).unit


def evaluated_text(report: Report) -> str:
    """Where the metrics were measured."""
    found = report.evaluation
    where = "random inputs, for want of a dataset" if found.inputs == "random" else f"the {found.split} split"
    return f"Measured on the published file, on {found.examples_count} examples of {where}. In brackets: 95 % Wilson intervals."


def before_after(report: Report) -> list[Row]:
    """Rows of the table of figures: what, before, after, change."""
    baseline, result, compared = report.baseline, report.result, report.comparison
    rows: list[Row] = []
    for key, after in result.metrics.items():
        sides = (("baseline", baseline.metrics.get(key)), ("result", after))
        texts = [_with_interval(key_text(key, value), report.intervals.get(side, {}).get(key)) for side, value in sides]  # type: ignore[call-overload]  # the two sides that have intervals
        rows.append((Column.of(key).title, *texts, change_text(key, compared.metric_changes.get(key))))
    for name, label in FIGURES:
        old, new = getattr(baseline, name), getattr(result, name)
        rows.append((label, key_text(name, old), key_text(name, new), _shrunk_text(old, new)))
    for before, own, speed in zip(baseline.latencies, result.latencies, compared.latencies, strict=True):
        texts = [f"{number_text(item.p50, 'ms')} / {number_text(item.p95, 'ms')}" for item in (before, own)]
        interval = f"{ratio_text(speed.speedup_low)}–{ratio_text(speed.speedup_high)}"
        what = f"Latency p50 / p95, batch {before.batch_size}, {before.threads} thread(s)"
        if own.mean is not None:
            means = ((item.mean, item.p10, item.p90) for item in (before, own))
            texts = [f"{number_text(mean, 'ms')} ({number_text(low, 'ms')} – {number_text(high, 'ms')})" for mean, low, high in means]
            what = f"Latency, mean (easy – hard inputs: p10 – p90), batch {before.batch_size}, {before.threads} thread(s)"
        rows.append((what, *texts, f"{speed.verdict}: {ratio_text(speed.speedup)} ({interval})"))
    return rows


SETTING_COLUMNS = ("setting", "quality", "file", "parameters", "operations", "latency", "speed", "constraints")
_OUTCOMES = {"constraints_met": "met", "constraints_not_met": "missed", "no_constraints": "–"}


def setting_rows(report: Report) -> list[Row]:
    """One row a setting where the network has several, after one for the baseline; empty for the ordinary case."""
    result: Result = report.as_result()
    if len(result.settings) < 2:
        return []
    original = ("original", *_short(result.baseline, report.intervals.get("baseline", {})), "", "")
    return [original, *(_setting_row(item, report.setting_intervals.get(item.setting.name, {})) for item in result.settings)]


def _setting_row(item: Measured, intervals: Mapping[str, Interval]) -> Row:
    values = ", ".join(f"{name} {value}" for name, value in item.setting.values.items())
    name = f"{item.setting.name} ({values})" if values else item.setting.name
    speed = item.comparison.latencies[0]
    return (name, *_short(item.figures, intervals), f"{speed.verdict}: {ratio_text(speed.speedup)}", _OUTCOMES[item.verdict.outcome])


def _short(figures: Figures, intervals: Mapping[str, Interval]) -> Row:
    key = first_of(figures.metrics)
    quality = "–" if key is None else _with_interval(key_text(key, figures.metrics[key]), intervals.get(key))
    counts = (number_text(value, "count") for value in (figures.params_count, figures.macs_count))
    return (quality, bytes_text(figures.file_bytes), *counts, number_text(figures.latency_ms.typical, "ms"))


def environment_rows(report: Report) -> list[Row]:
    """The environment as rows of name and value."""
    found = report.environment
    packages = ", ".join(f"{name} {version}" for name, version in found.packages.items())
    return [
        ("Processor", f"{found.cpu_model}, {found.cpu_count} cores ({', '.join(found.cpu_flags) or 'no known flags'})"),
        ("Runtime of all figures", report.result.latency_ms.runtime),
        ("Packages", packages),
        ("System", f"{found.system} {found.machine}, Python {found.python}"),
        ("Engine", f"modelpress {found.engine_version}, {found.threads} thread(s), device {found.device}, seed {found.seed}"),
    ]


def step_metrics(metrics: dict[str, float | None]) -> str:
    """What was measured after a step."""
    return ", ".join(f"{Column.of(key).title} {key_text(key, value)}" for key, value in metrics.items())


def reproduce_command(report: Report) -> str:
    """The shell command that runs the job again without a service: spec, formats and metadata are read from the report."""
    files = [("--model", report.inputs.model.name)]
    if report.inputs.dataset is not None:
        files.append(("--data", report.inputs.dataset.name))
    files += [("--teacher", f"{identifier}={file.name}") for identifier, file in report.inputs.teachers.items()]
    return " ".join(["modelpress run report.json", *(f"{option} {shlex.quote(name)}" for option, name in files), "--out out"])


def layer_text(side: Any) -> str:
    """The weight of a layer in short."""
    if side is None:
        return "–"
    zeros = f", {number_text(side.sparsity, 'share')} zero" if side.sparsity >= 0.005 else ""
    return f"{'×'.join(map(str, side.shape))}, {side.bits:g} bit, {bytes_text(side.bytes)}{zeros}"


def _shrunk_text(before: float | None, after: float | None) -> str:
    if before == after:
        return "same"
    if not before or not after:
        return "–"
    return f"{ratio_text(before / after)} less" if before > 1.01 * after else f"{100 * (after - before) / before:+.2g} %"


def _with_interval(text: str, interval: Interval | None) -> str:
    return text if interval is None or text == "–" else f"{text} ({100 * interval[0]:.2f}–{100 * interval[1]:.2f} %)"


def summary_table(described: Report) -> str:
    """The figures of a report as a table for a terminal."""
    rows = [("", "before", "after", "change"), *before_after(described)]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    checks = [f"{'met   ' if item.met else 'MISSED'} {constraint_row(item)[0]}" for item in described.constraints]
    return "\n".join(["", *lines, *checks, "", described.sentence])
