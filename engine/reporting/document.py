"""The report of a compress job: one JSON document, and its readable forms.

`to_html` and `to_markdown` need nothing but the standard library, so that the API renders reports without numpy or torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.contract import constraints
from engine.contract.figures import ConstraintCheck
from engine.reporting.html import to_html
from engine.reporting.markdown import to_markdown
from engine.reporting.text import ratio_text, value_text

__all__ = ["REPORT_VERSION", "sentence", "to_html", "to_markdown"]

REPORT_VERSION = 1


def sentence(document: Mapping[str, Any]) -> str:
    """What came out, in one sentence."""
    compared, split = document["comparison"], document["evaluation"]["split"]
    smaller = compared["file_ratio"] or 0
    parts = [f"{ratio_text(smaller)} smaller" if smaller >= 1.005 else "no smaller file"]
    if smaller < 1.005 and (compared["gzip_ratio"] or 0) >= 1.05:
        parts.append(f"{ratio_text(compared['gzip_ratio'])} smaller after gzip")
    metric = next(
        (key for name in ("top1", "agreement", "cosine", "sqnr_db") if (key := f"{split}.{name}") in document["result"]["metrics"]), None
    )
    if metric is not None:
        before, after = (document[side]["metrics"][metric] for side in ("baseline", "result"))
        name = metric.partition(".")[2]
        if name == "top1":
            parts.append(f"top-1 {100 * (after - before):+.2f} points ({value_text(name, before)} → {value_text(name, after)})")
        else:
            parts.append(f"{name} with the original {value_text(name, after)}" + (" on random inputs" if split == "random" else ""))
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
