"""Diagrams as inline SVG, without a script. What is drawn comes from methods that this module does not know."""

import math
from collections.abc import Sequence
from html import escape
from typing import TypeVar

from engine.contract.display import Bars, Curve, Line
from engine.reporting.text import number_text, tick_text

MOST_LINES = 24
"""Lines of one diagram; what is left out stands in the JSON document."""
MOST_POINTS = 200
MOST_MARKED = 40
"""Points of one line that are marked, and say their values."""
MOST_BARS = 60
MOST_NAME = 60
T = TypeVar("T")
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 560, 250, 66, 24, 36
_SHADES = 8
_BAR, _LEAST_BAR = 13, 2.0


def curve_svg(curve: Curve) -> str:
    """A diagram of lines, with a legend where there are several; a line of one point is a dot."""
    lines = [Line(name=line.name, points=tuple(thinned(line.points, MOST_POINTS))) for line in curve.lines[:MOST_LINES] if line.points]
    if not lines:
        return ""
    xs, ys = ([point[axis] for line in lines for point in line.points] for axis in (0, 1))
    x, y = _Scale(min(xs), max(xs), _LEFT, _WIDTH - 12), _Scale(min(ys), max(ys), _HEIGHT - _BOTTOM, _TOP)
    parts = [_axes(curve, x, y), *(_line(line, index, curve, x, y) for index, line in enumerate(lines))]
    drawing = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{_label(curve.title)}">{"".join(parts)}</svg>'
    return drawing + (_legend([line.name for line in lines]) if len(lines) > 1 else "")


def _line(line: Line, index: int, curve: Curve, x: "_Scale", y: "_Scale") -> str:
    places = " ".join(f"{x.place(a):.1f},{y.place(b):.1f}" for a, b in line.points)
    alone = len(line.points) == 1
    marks = "" if len(line.points) > MOST_MARKED else "".join(_mark(line, point, curve, x, y) for point in line.points)
    return f'<g class="line s{index % _SHADES}">{"" if alone else f"<polyline points={chr(34)}{places}{chr(34)}/>"}{marks}</g>'


def _mark(line: Line, point: tuple[float, float], curve: Curve, x: "_Scale", y: "_Scale") -> str:
    text = f"{line.name[:MOST_NAME]}: {number_text(point[1], curve.y.unit)} at {number_text(point[0], curve.x.unit)}"
    radius = 4.5 if len(line.points) == 1 else 2.4
    return f'<circle cx="{x.place(point[0]):.1f}" cy="{y.place(point[1]):.1f}" r="{radius}"><title>{escape(text)}</title></circle>'


def bars_svg(bars: Bars) -> str:
    """Horizontal bars with their values; one that is not zero can be seen, however small it is."""
    shown = bars.bars[:MOST_BARS]
    largest = max((abs(value) for bar in shown for value in bar.values if value is not None), default=0) or 1
    left = _LEFT * 3
    parts, top = [], 4
    for bar in shown:
        parts.append(f'<text x="{left - 6}" y="{top + 10}" text-anchor="end">{escape(_end_of(bar.name, 30))}</text>')
        for index, value in enumerate(bar.values):
            width = 0.0 if not value else max(_LEAST_BAR, (_WIDTH - left - 90) * abs(value) / largest)
            parts.append(
                f'<g class="bar s{index % _SHADES}"><rect x="{left}" y="{top}" width="{width:.1f}" height="{_BAR - 3}" rx="1"/></g>'
                f'<text x="{left + width + 4:.1f}" y="{top + 9}">{escape(number_text(value, bars.unit))}</text>'
            )
            top += _BAR
        top += 4
    drawing = f'<svg viewBox="0 0 {_WIDTH} {top}" role="img" aria-label="{_label(bars.title)}">{"".join(parts)}</svg>'
    return drawing + _legend([name for name in bars.series if name])


def thinned(items: Sequence[T], most: int) -> Sequence[T]:
    """At most so many of the items, evenly spread; the first and the last are among them."""
    if len(items) <= most:
        return items
    return [items[place * (len(items) - 1) // (most - 1)] for place in range(most)]


def _legend(names: Sequence[str]) -> str:
    keys = "".join(f'<span class="key s{index % _SHADES}">{escape(name[:MOST_NAME])}</span> ' for index, name in enumerate(names))
    return f'<p class="legend">{keys}</p>' if names else ""


def _label(title: str) -> str:
    return escape(title[:200])


def _end_of(name: str, most: int) -> str:
    """The end of a long name: layers that lie deep differ there."""
    return name if len(name) <= most else "…" + name[1 - most :]


class _Scale:
    """Where a value lies between two places, and the round values to write at the axis."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        span = high - low or abs(high) or 1.0
        margin = span * 0.06
        self.low = 0.0 if 0 <= low < margin or low == 0 else low - margin
        self.high = high + margin
        self._start, self._end = start, end
        self.step = _round_step((self.high - self.low) / 6)

    def place(self, value: float) -> float:
        """The coordinate of a value."""
        return self._start + (self._end - self._start) * (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round values along the axis."""
        first = math.ceil(self.low / self.step - 1e-9)
        last = math.floor(self.high / self.step + 1e-9)
        return [number * self.step for number in range(first, last + 1)][:12]


def _round_step(wanted: float) -> float:
    """1, 2 or 5 times a power of ten, at least as wide as `wanted`."""
    power = 10.0 ** math.floor(math.log10(wanted))
    return float(next(power * digit for digit in (1, 2, 5, 10) if power * digit >= wanted * (1 - 1e-9)))


def _axes(curve: Curve, x: _Scale, y: _Scale) -> str:
    floor = _HEIGHT - _BOTTOM
    grid = "".join(f"M{_LEFT},{y.place(value):.1f}H{_WIDTH - 12}" for value in y.ticks())
    parts = [f'<path class="grid" d="{grid}"/><path class="axis" d="M{_LEFT},{_TOP}V{floor}H{_WIDTH - 12}"/>']
    for value in x.ticks():
        text = escape(tick_text(value, curve.x.unit, x.step))
        parts.append(f'<text x="{x.place(value):.1f}" y="{floor + 15}" text-anchor="middle">{text}</text>')
    for value in y.ticks():
        text = escape(tick_text(value, curve.y.unit, y.step))
        parts.append(f'<text x="{_LEFT - 7}" y="{y.place(value) + 4:.1f}" text-anchor="end">{text}</text>')
    parts.append(
        f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 4}" text-anchor="middle">{escape(curve.x.title[:MOST_NAME])}</text>'
        f'<text x="4" y="13">{escape(curve.y.title[:MOST_NAME])}</text>'
    )
    return "".join(parts)
