"""What came out of a compression, in one sentence."""

from engine.contract import constraints
from engine.contract.metric import Key, first_of
from engine.contract.report import Report
from engine.reporting.text import change_text, key_text, ratio_text


def sentence(report: Report) -> str:
    """Size, quality and speed of the first setting, and the targets that were missed by the one that the outcome rests on."""
    compared, result = report.comparison, report.result
    smaller, after_gzip = compared.file_ratio or 0, compared.gzip_ratio or 0
    parts = [f"{ratio_text(smaller)} smaller" if smaller >= 1.005 else "no smaller file"]
    if smaller < 1.005 and after_gzip >= 1.05:
        parts.append(f"{ratio_text(after_gzip)} smaller after gzip")
    key = first_of(key for key in result.metrics if Key.parse(key).split == report.evaluation.split)
    if key is not None:
        parts.append(_quality(report, key))
    speed, latency = compared.latencies[0], result.latency_ms
    how = {"faster": f"{ratio_text(speed.speedup)} faster", "same": "as fast as the original"}.get(
        report.verdict, f"{ratio_text(1 / speed.speedup)} slower"
    )
    parts.append(f"{how} on {latency.runtime} ({latency.threads} thread{'s' if latency.threads > 1 else ''}, batch {latency.batch_size})")
    missed = ", ".join(constraints.sentence(item) for item in report.constraints if not item.met)
    who = f" by {report.judged_setting}" if report.judged_setting else ""
    ending = {"constraints_met": f"; all constraints met{who}", "no_constraints": ""}.get(report.outcome, f"; missed{who}: {missed}")
    return ", ".join(parts) + ending + "."


def _quality(report: Report, key: str) -> str:
    metric, after = Key.parse(key).metric, key_text(key, report.result.metrics[key])
    assert metric is not None
    if metric.needs == "baseline":
        return f"{metric.name} with the original {after}" + (" on random inputs" if report.evaluation.inputs == "random" else "")
    change = change_text(key, report.comparison.metric_changes.get(key))
    return f"{metric.short} {change} ({key_text(key, report.baseline.metrics.get(key))} → {after})"
