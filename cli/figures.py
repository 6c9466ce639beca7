"""Before and after on a terminal."""

from collections.abc import Callable, Iterator

from rich.table import Table

from engine.contract.figures import Figures, Summary

Row = tuple[str, Callable[[Figures], float | None], str]
_ROWS: tuple[Row, ...] = (
    ("file", lambda figures: figures.file_bytes, "{:,} B"),
    ("file, gzipped", lambda figures: figures.gzip_bytes, "{:,} B"),
    ("parameters", lambda figures: figures.params_count, "{:,}"),
    ("multiply-accumulates", lambda figures: figures.macs_count, "{:,.0f}"),
    ("latency p50", lambda figures: figures.latency_ms.p50, "{:.3f} ms"),
    ("latency p95", lambda figures: figures.latency_ms.p95, "{:.3f} ms"),
)


def before_and_after(summary: Summary) -> Table:
    """The first metric, sizes and times of the baseline and of the result."""
    table = Table(title="Measured on the published file, reloaded in a fresh process")
    for heading in ("", "before", "after", "change"):
        table.add_column(heading, justify="left" if not heading else "right")
    for row in _rows(summary.baseline, summary.result):
        table.add_row(*row)
    return table


def _rows(before: Figures, after: Figures) -> Iterator[tuple[str, str, str, str]]:
    for name, value in list(before.metrics.items())[:3]:
        result = after.metrics.get(name)
        if value is not None and result is not None:
            yield name, f"{value:.4f}", f"{result:.4f}", f"{result - value:+.4f}"
    for title, read, form in _ROWS:
        old, new = read(before), read(after)
        if old is not None and new is not None:
            yield title, form.format(old), form.format(new), f"{old / new:.2f}× less" if new else ""
