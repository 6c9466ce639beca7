"""The figures of a result that people ask for first, each beside what it was."""

from dataclasses import dataclass

from api.pages.jobs import Gain
from api.pages.words import first_metric
from engine.contract.display import Column
from engine.contract.figures import Summary
from engine.reporting.text import key_text, number_text, ratio_text

_SIZES = (("file_bytes", "File"), ("gzip_bytes", "File after gzip"), ("params_count", "Parameters"), ("macs_count", "Operations"))


@dataclass(frozen=True)
class Card:
    """One figure of the result, beside what it was."""

    what: str
    after: str
    before: str
    change: str
    look: str = ""


def cards_of(found: Summary) -> list[Card]:
    """The cards of a finished job: quality, sizes, latency."""
    gain = Gain.of(found)
    before, after, compared = found.baseline, found.result, found.comparison
    cards = []
    if key := first_metric(after.metrics):
        worse = gain.change is not None and gain.change < 0
        change = (
            "" if gain.change is None else f"{100 * gain.change:+.2f} points" if Column.of(key).unit == "share" else f"{gain.change:+.4g}"
        )
        cards.append(
            Card(gain.metric, key_text(key, gain.after), key_text(key, before.metrics.get(key)), change, "bad" if worse else "good")
        )
    ratios = {
        "file_bytes": compared.file_ratio,
        "gzip_bytes": compared.gzip_ratio,
        "params_count": compared.params_ratio,
        "macs_count": compared.macs_ratio,
    }
    for name, label in _SIZES:
        ratio, less = ratios[name], "smaller" if name.endswith("bytes") else "fewer"
        look = "" if ratio is None or abs(ratio - 1) < 0.005 else "good" if ratio > 1 else "bad"
        change = "" if ratio is None else f"{ratio_text(ratio)} {less}" if ratio >= 0.995 else f"{ratio_text(1 / ratio)} larger"
        cards.append(Card(label, key_text(name, getattr(after, name)), key_text(name, getattr(before, name)), change, look))
    look = {"faster": "good", "slower": "bad"}.get(found.verdict, "")
    ratio = gain.speedup if found.verdict != "slower" else 1 / gain.speedup
    change = "as fast" if found.verdict == "same" else f"{ratio_text(ratio)} {found.verdict}"
    now, then = (number_text(item.latency_ms.typical, "ms") for item in (after, before))
    cards.append(Card(f"Latency, batch {after.latency_ms.batch_size}", now, then, change, look))
    return cards
