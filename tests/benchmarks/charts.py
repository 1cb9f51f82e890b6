"""Line charts as SVG, written as text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Final
from xml.sax.saxutils import escape

from attrs import frozen

__all__ = ["Chart", "Line", "drawn"]

_WIDTH: Final = 400
_HEIGHT: Final = 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 92, 44, 44
_BETWEEN_LABELS: Final = 14
_COLOURS: Final = {
    "SQLite": "#0b6bcb",
    "PostgreSQL": "#b3541e",
    "MariaDB": "#7a3fb0",
    "Redis": "#1b7f4d",
    "update()": "#0b6bcb",
    "track()": "#1b7f4d",
    "tqdm": "#5f6b76",
}
_INK: Final = "#1f2933"
_FAINT: Final = "#dde3e8"


@frozen
class Line:
    """The points of one thing that was measured; its name chooses its colour."""

    name: str
    points: tuple[tuple[float, float], ...]


@frozen(kw_only=True)
class Chart:
    """Lines over a logarithmic axis of amounts. The other axis begins at 0, or is logarithmic too."""

    title: str
    amount: str
    cost: str
    lines: tuple[Line, ...]
    is_logarithmic: bool = False


def drawn(charts: Sequence[Chart], title: str) -> str:
    """One SVG image of the charts, two in each row."""
    rows = math.ceil(len(charts) / 2)
    width, height = 2 * _WIDTH, rows * _HEIGHT
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    font = 'font-family="system-ui, sans-serif" font-size="11"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" {font}>',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for number, chart in enumerate(charts):
        parts.append(f'<g transform="translate({number % 2 * _WIDTH} {number // 2 * _HEIGHT})">')
        parts += _chart(chart)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>", ""])


def _chart(chart: Chart) -> Iterable[str]:
    amounts = [amount for line in chart.lines for amount, _ in line.points]
    costs = [cost for line in chart.lines for _, cost in line.points]
    x = _scale(_decades(amounts), _LEFT, _WIDTH - _RIGHT)
    ticks = _decades(costs) if chart.is_logarithmic else _steps(max(costs))
    y = (_scale if chart.is_logarithmic else _linear)(ticks, _HEIGHT - _BOTTOM, _TOP)
    yield _text(_LEFT - 40, 18, chart.title, weight="600", size=13)
    yield _text(_LEFT - 40, 34, chart.cost)
    for tick in ticks:
        yield f'<path d="M{_LEFT} {y(tick):.1f}H{_WIDTH - _RIGHT}" stroke="{_FAINT}"/>'
        yield _text(_LEFT - 6, y(tick) + 4, _number(tick), anchor="end")
    for tick in _decades(amounts):
        yield _text(x(tick), _HEIGHT - _BOTTOM + 16, _number(tick), anchor="middle")
    yield _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - _BOTTOM + 33, chart.amount, anchor="middle")
    for line, at in zip(chart.lines, _label_places([y(line.points[-1][1]) for line in chart.lines]), strict=True):
        colour = _COLOURS.get(line.name, _INK)
        path = "L".join(f"{x(amount):.1f} {y(cost):.1f}" for amount, cost in line.points)
        yield f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round"/>'
        yield _text(x(line.points[-1][0]) + 6, at + 4, line.name, colour=colour)


def _text(
    x: float, y: float, content: str, *, anchor: str = "start", weight: str = "", size: int = 0, colour: str = _INK
) -> str:
    style = (f' font-weight="{weight}"' if weight else "") + (f' font-size="{size}"' if size else "")
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}"{style}>{escape(content)}</text>'


def _label_places(wanted: Sequence[float]) -> list[float]:
    """Where the labels go: at the ends of their lines, but far enough from each other."""
    places = list(wanted)
    order = sorted(range(len(places)), key=lambda number: places[number])
    for above, below in pairwise(order):
        places[below] = max(places[below], places[above] + _BETWEEN_LABELS)
    too_low = max(places, default=0) - (_HEIGHT - _BOTTOM)
    return [place - max(0, too_low) for place in places]


def _decades(values: Sequence[float]) -> list[float]:
    """The powers of ten around these values."""
    first, last = math.floor(math.log10(min(values)) + 1e-9), math.ceil(math.log10(max(values)) - 1e-9)
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]


def _steps(highest: float) -> list[float]:
    """Round numbers from 0 to at least this one."""
    power = 10.0 ** math.floor(math.log10(highest))
    step = next(power * factor for factor in (0.2, 0.5, 1, 2, 5) if 5 * power * factor >= highest)
    return [step * number for number in range(math.ceil(highest / step) + 1)]


def _scale(ticks: Sequence[float], begin: float, end: float) -> Callable[[float], float]:
    linear = _linear([math.log10(tick) for tick in ticks], begin, end)
    return lambda value: linear(math.log10(value))


def _linear(ticks: Sequence[float], begin: float, end: float) -> Callable[[float], float]:
    first, last = ticks[0], ticks[-1]
    return lambda value: begin + (value - first) / (last - first) * (end - begin)


def _number(value: float) -> str:
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if value >= max(size, 1e4):
            return f"{value / size:g}{unit}"
    return f"{value:,.10g}" if value >= 1 or not value else f"{value:.3g}"
