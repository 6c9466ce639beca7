"""The report of a compress job: one JSON document, and its readable forms.

`to_html` and `to_markdown` need nothing but the standard library, so that the API renders reports without numpy or torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.contract import constraints
from engine.contract.figures import ConstraintCheck
from engine.contract.metric import Key, first_of
from engine.reporting.html import to_html
from engine.reporting.markdown import to_markdown
from engine.reporting.text import moved_text, ratio_text, value_text

__all__ = ["REPORT_VERSION", "sentence", "to_html", "to_markdown"]

REPORT_VERSION = 1


def sentence(document: Mapping[str, Any]) -> str:
    """What came out, in one sentence."""
    compared, split = document["comparison"], document["evaluation"]["split"]
    smaller = compared["file_ratio"] or 0
    parts = [f"{ratio_text(smaller)} smaller" if smaller >= 1.005 else "no smaller file"]
    if smaller < 1.005 and (compared["gzip_ratio"] or 0) >= 1.05:
        parts.append(f"{ratio_text(compared['gzip_ratio'])} smaller after gzip")
    key = first_of(key for key in document["result"]["metrics"] if Key.parse(key).split == split)
    metric = Key.parse(key).metric if key is not None else None
    if key is not None and metric is not None:
        before, after = (document[side]["metrics"].get(key) for side in ("baseline", "result"))
        if metric.needs == "baseline":
            parts.append(
                f"{metric.name} with the original {value_text(metric.name, after)}" + (" on random inputs" if split == "random" else "")
            )
        elif before is not None and after is not None:
            change = moved_text(metric.name, after - before)
            parts.append(f"{metric.short} {change} ({value_text(metric.name, before)} → {value_text(metric.name, after)})")
    speed, latency = compared["latencies"][0], document["result"]["latency_ms"]
    how = {"faster": f"{ratio_text(speed['speedup'])} faster", "same": "as fast as the original"}.get(
        document["verdict"], f"{ratio_text(1 / speed['speedup'])} slower"
    )
    parts.append(
        f"{how} on {latency['runtime']} ({latency['threads']} thread{'s' if latency['threads'] > 1 else ''}, batch {latency['batch_size']})"
    )
    missed = [constraints.sentence(ConstraintCheck.model_validate(item)) for item in document["constraints"] if not item["met"]]
    ending = {"constraints_met": "; all constraints met", "no_constraints": ""}.get(document["outcome"], "; missed: " + ", ".join(missed))
    return ", ".join(parts) + ending + "."
