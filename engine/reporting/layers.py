"""What people read of a layer beside its size: its share of the time, and how sensitive the network is to it."""

from engine.contract.report import LayerChange, LayerSensitivity, Report
from engine.reporting.text import change_text, number_text


def share_text(layer: LayerChange) -> str:
    """The share of the time that a layer takes, before and after."""
    before, after = (number_text(value, "share") for value in (layer.latency_share_before, layer.latency_share_after))
    return "–" if before == after == "–" else f"{before} → {after}"


def sensitivity_text(found: LayerSensitivity | None) -> str:
    """What a step measured of a network in which one layer was changed."""
    if found is None:
        return "–"
    if found.whole is None:
        return f"{number_text(found.value, 'dB')} with {found.tried}"
    return f"{change_text(found.key, found.value - found.whole)} with {found.tried}"


def layers_notes(report: Report) -> tuple[str, ...]:
    """Why something stands in no line of the table of layers."""
    why = [f"No share of the time: {report.layers_not_profiled}."] if report.layers_not_profiled else []
    if not any(layer.sensitivity for layer in report.layers):
        why.append(
            "No sensitivity: no step measured it (structured_pruning with `pruning_ratio: auto` and static_quantization with `mixed_precision` do)."
        )
    return tuple(why)
