"""Diagrams as inline SVG, without a script. What is drawn comes from methods that this module does not know."""

from collections.abc import Sequence
from html import escape
from typing import TypeVar

from engine.contract.display import Bars, Curve, Line
from engine.reporting.text import number_text, place_text

MOST_LINES = 24
"""Lines of one diagram; what is left out stands in the JSON document."""
MOST_POINTS = 200
MOST_BARS = 60
T = TypeVar("T")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 560, 240, 64, 34
_SHADES = 8
_BAR = 13


def curve_svg(curve: Curve) -> str:
    """A diagram of lines, with a legend where there are several."""
    lines = [Line(name=line.name, points=tuple(thinned(line.points, MOST_POINTS))) for line in curve.lines[:MOST_LINES] if line.points]
    if not lines:
        return ""
    xs, ys = ([point[axis] for line in lines for point in line.points] for axis in (0, 1))
    x, y = _Scale(min(xs), max(xs), _LEFT, _WIDTH - 8), _Scale(min(ys), max(ys), _HEIGHT - _BOTTOM, 8)
    parts = [_axes(curve, x, y)]
    for index, line in enumerate(lines):
        points = " ".join(f"{x.place(a):.1f},{y.place(b):.1f}" for a, b in line.points)
        parts.append(f'<g class="line s{index % _SHADES}"><title>{escape(line.name)}</title><polyline points="{points}"/>')
        parts += [f'<circle cx="{x.place(a):.1f}" cy="{y.place(b):.1f}" r="2"/>' for a, b in line.points if len(line.points) <= 40]
        parts.append("</g>")
    legend = "".join(f'<span class="key s{index % _SHADES}">{escape(line.name[:60])}</span> ' for index, line in enumerate(lines))
    drawing = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" aria-label="{escape(curve.title)}">{"".join(parts)}</svg>'
    return drawing + (f'<p class="legend">{legend}</p>' if len(lines) > 1 else "")


def bars_svg(bars: Bars) -> str:
    """Horizontal bars with their values."""
    shown = bars.bars[:MOST_BARS]
    largest = max((abs(value) for bar in shown for value in bar.values if value is not None), default=0) or 1
    parts, top = [], 4
    for bar in shown:
        parts.append(f'<text x="{_LEFT * 3 - 6}" y="{top + 10}" text-anchor="end">{escape(bar.name[:40])}</text>')
        for index, value in enumerate(bar.values):
            width = 0.0 if value is None else (_WIDTH - 4 * _LEFT) * abs(value) / largest
            parts.append(
                f'<g class="bar s{index % _SHADES}"><rect x="{_LEFT * 3}" y="{top}" width="{max(width, 0.5):.1f}" height="{_BAR - 3}"/></g>'
                f'<text x="{_LEFT * 3 + width + 4:.1f}" y="{top + 9}">{escape(number_text(value, bars.unit))}</text>'
            )
            top += _BAR
        top += 4
    series = [name for name in bars.series if name]
    legend = "".join(f'<span class="key s{index % _SHADES}">{escape(name)}</span> ' for index, name in enumerate(series))
    drawing = f'<svg viewBox="0 0 {_WIDTH} {top}" width="{_WIDTH}" role="img" aria-label="{escape(bars.title)}">{"".join(parts)}</svg>'
    return drawing + (f'<p class="legend">{legend}</p>' if series else "")


def thinned(items: Sequence[T], most: int) -> Sequence[T]:
    """At most so many of the items, evenly spread; the first and the last are among them."""
    if len(items) <= most:
        return items
    return [items[place * (len(items) - 1) // (most - 1)] for place in range(most)]


class _Scale:
    """Where a value lies between two places."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        margin = (high - low or abs(high) or 1) * 0.05
        self.low, self.high = low - margin, high + margin
        self._start, self._end = start, end

    def place(self, value: float) -> float:
        """The coordinate of a value."""
        return self._start + (self._end - self._start) * (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Five values along the axis."""
        return [self.low + (self.high - self.low) * (index + 0.5) / 5 for index in range(5)]


def _axes(curve: Curve, x: _Scale, y: _Scale) -> str:
    floor = _HEIGHT - _BOTTOM
    parts = [f'<path class="axis" d="M{_LEFT},8V{floor}H{_WIDTH - 8}"/>']
    for value in x.ticks():
        parts.append(
            f'<text x="{x.place(value):.1f}" y="{floor + 14}" text-anchor="middle">{escape(place_text(value, curve.x.unit))}</text>'
        )
    for value in y.ticks():
        parts.append(
            f'<text x="{_LEFT - 6}" y="{y.place(value) + 4:.1f}" text-anchor="end">{escape(place_text(value, curve.y.unit))}</text>'
        )
    parts.append(f'<text class="name" x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 4}" text-anchor="middle">{escape(curve.x.title)}</text>')
    parts.append(f'<text class="name" x="{_LEFT + 6}" y="16">{escape(curve.y.title)}</text>')
    return "".join(parts)
