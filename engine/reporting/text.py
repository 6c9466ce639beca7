"""Numbers of a report in words that people read."""

from collections.abc import Mapping
from typing import Any

from engine.contract.metric import Key, catalogue

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
_UNITS = ("B", "kB", "MB", "GB", "TB")


def value_text(name: str, value: Any) -> str:
    """A figure with its unit."""
    if value is None:
        return "–"
    metric = catalogue().get(name)
    unit = metric.unit if metric is not None else "share" if name == "sparsity" else ""
    if unit == "share":
        return f"{100 * value:.2f} %"
    if unit == "dB":
        return "identical" if value >= IDENTICAL_DB else f"{value:.1f} dB"
    if name.endswith("bytes"):
        return bytes_text(value)
    if name.endswith("_count"):
        return f"{value:,}".replace(",", " ")
    return f"{value:.4f}"


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


def ms_text(value: float) -> str:
    """Milliseconds with three digits."""
    return f"{value:.3g} ms"


def constraint_name(item: Mapping[str, Any]) -> str:
    """What a target limits."""
    return f"{item['name']} ({item['metric']})" if "metric" in item else str(item["name"])


def before_after(document: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows of the table of figures: what, before, after, change."""
    baseline, result, compared = document["baseline"], document["result"], document["comparison"]
    rows: list[tuple[str, ...]] = []
    for key, after in result["metrics"].items():
        name = Key.parse(key).name
        before = baseline["metrics"].get(key)
        change = compared["metric_changes"].get(key)
        shown = "–" if change is None else moved_text(name, change)
        texts = [
            _with_interval(name, value, document["intervals"][side].get(key)) for side, value in (("baseline", before), ("result", after))
        ]
        rows.append((metric_title(key), *texts, shown))
    for key, label in FIGURES:
        before, after = baseline.get(key), result.get(key)
        rows.append((label, value_text(key, before), value_text(key, after), _change_text(before, after)))
    for before, after, speed in zip(baseline["latencies"], result["latencies"], compared["latencies"], strict=True):
        what = f"Latency p50 / p95, batch {before['batch_size']}, {before['threads']} thread(s)"
        texts = [f"{ms_text(item['p50'])} / {ms_text(item['p95'])}" for item in (before, after)]
        span = (
            f"{speed['verdict']}: {ratio_text(speed['speedup'])} ({ratio_text(speed['speedup_low'])}–{ratio_text(speed['speedup_high'])})"
        )
        rows.append((what, *texts, span))
    return rows


def environment_rows(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The environment as rows of name and value."""
    found = document["environment"]
    packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    return [
        ("Processor", f"{found['cpu_model']}, {found['cpu_count']} cores ({', '.join(found['cpu_flags']) or 'no known flags'})"),
        ("Runtime of all figures", document["result"]["latency_ms"]["runtime"]),
        ("Packages", packages),
        ("System", f"{found['system']} {found['machine']}, Python {found['python']}"),
        ("Engine", f"modelpress {found['engine_version']}, {found['threads']} thread(s), device {found['device']}, seed {found['seed']}"),
    ]


def reproduce_command(document: Mapping[str, Any]) -> str:
    """The shell command that runs the job again without a service."""
    model, dataset = document["inputs"]["model"], document["inputs"]["dataset"]
    parts = ["python -m engine run spec.yaml", f"--model {_quoted(model['name'])} --model-format {model['format']}"]
    if dataset is not None:
        parts.append(f"--data {_quoted(dataset['name'])} --data-format {dataset['format']}")
    return " ".join([*parts, "--out out"])


def _quoted(name: str) -> str:
    import shlex

    return shlex.quote(name)


def metric_title(key: str) -> str:
    """What a metric measures, on which split and of which output."""
    split, name, output = Key.parse(key)
    metric = catalogue().get(name)
    title = name.replace("_", " ") if metric is None else f"{metric.title} ({metric.unit})" if metric.unit == "nats" else metric.title
    return ", ".join(part for part in (title, output, split) if part)


def moved_text(name: str, change: float) -> str:
    """How far a metric moved; nothing for one that compares with the original already."""
    metric = catalogue().get(name)
    if metric is not None and metric.needs == "baseline":
        return "–"
    return f"{100 * change:+.2f} points" if metric is not None and metric.unit == "share" else f"{change:+.4g}"


def _change_text(before: Any, after: Any) -> str:
    if before == after:
        return "same"
    if not before or not after:
        return "–"
    return f"{ratio_text(before / after)} less" if before > 1.01 * after else f"{100 * (after - before) / before:+.2g} %"


def _with_interval(name: str, value: Any, interval: Any) -> str:
    text = value_text(name, value)
    return text if interval is None or value is None else f"{text} ({100 * interval[0]:.2f}–{100 * interval[1]:.2f} %)"
