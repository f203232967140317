"""The plot of a report, in SVG: a panel for each window, and one for commands."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import Final, NamedTuple

from .results import Figure, Report, cpu, number

WIDTH: Final = 560
_LEFT: Final = 206
_RIGHT: Final = 56
_ROW: Final = 20
_BAR: Final = 11
_GAP: Final = 22
_HEAD: Final = 46
# A ground of its own: readable in an <img>, whatever the page behind it is set to.
_STYLE: Final = """\
.ground { fill: #ffffff } .ink { fill: #1f2328 } .dim { fill: #59636e } .grid { stroke: #d8dee4 }
.ours { fill: #0969da } .peer { fill: #9aa4af } .range { stroke: #1f2328; stroke-width: 2 }
text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif }
.dim { font-size: 12px } .title { font-weight: 600; font-size: 14px } .strong { font-weight: 600 }
@media (prefers-color-scheme: dark) {
.ground { fill: #16181c } .ink { fill: #e6edf3 } .dim { fill: #9198a1 } .grid { stroke: #32373e }
.ours { fill: #4493f8 } .peer { fill: #5b6570 } .range { stroke: #e6edf3 }
}"""


class _Bar(NamedTuple):
    label: str
    figure: Figure
    is_ours: bool


class _Scale(NamedTuple):
    """Microseconds to pixels."""

    low: float
    high: float
    ticks: Sequence[float]
    is_logarithmic: bool

    @classmethod
    def logarithmic(cls, figures: Sequence[Figure]) -> _Scale:
        """Make one from a power of ten to another."""
        low = math.floor(math.log10(min(figure.low for figure in figures)))
        high = max(low + 1, math.ceil(math.log10(max(figure.high for figure in figures))))
        ticks = [10**power for power in range(low, high + 1)]
        return cls(low, high, ticks, is_logarithmic=True)

    @classmethod
    def linear(cls, figures: Sequence[Figure]) -> _Scale:
        """Make one that begins with 0 and has about five ticks."""
        high = max(figure.high for figure in figures)
        unit = 10 ** math.floor(math.log10(high / 5))
        step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor * 5 >= high)
        count = math.ceil(high / step)
        return cls(0, count * step, [step * i for i in range(count + 1)], is_logarithmic=False)

    def x(self, value: float) -> float:
        """Return where a value is drawn."""
        place = math.log10(value) if self.is_logarithmic else value
        return _LEFT + (place - self.low) / (self.high - self.low) * (WIDTH - _LEFT - _RIGHT)


def plot(report: Report) -> str:
    """Return the SVG, with its text as text."""
    panels = list(_panels(report))
    body: list[str] = []
    top = 12
    for title, bars, scale in panels:
        body += _panel(title, sorted(bars, key=lambda bar: bar.figure), scale, top)
        top += _HEAD + len(bars) * _ROW + _GAP
    summary = "Server CPU per delivery and per command, in microseconds; shorter is better"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}">',
            f"<title>{summary}</title>",
            f"<style>\n{_STYLE}\n</style>",
            f'<rect class="ground" width="{WIDTH}" height="{top}" rx="8"/>',
            *body,
            "</svg>\n",
        ]
    )


def _panels(report: Report) -> Iterator[tuple[str, list[_Bar], _Scale]]:
    spread = [cpu(samples) for row in report.fanout for samples in row.fanout.values()]
    for window in report.windows:
        rows = [row for row in report.fanout if window in row.fanout]
        bars = [_Bar(row.label, cpu(row.fanout[window]), row.is_ours) for row in rows]
        title = f"µs of server CPU per delivery, {window} outstanding"
        yield title, bars, _Scale.logarithmic(spread)
    bars = [_Bar(row.label, cpu(row.calls), row.is_ours) for row in report.calls if row.calls]
    if bars:
        yield "µs of server CPU per command", bars, _Scale.linear([bar.figure for bar in bars])


def _panel(title: str, bars: list[_Bar], scale: _Scale, top: int) -> Iterator[str]:
    yield f'<text class="ink title" x="14" y="{top + 16}">{escape(title)}</text>'
    first, bottom = top + _HEAD, top + _HEAD + len(bars) * _ROW
    if scale.is_logarithmic:
        yield f'<text class="dim" x="14" y="{first - 9}">logarithmic</text>'
    for tick in scale.ticks:
        x = scale.x(tick)
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{first - 4}" y2="{bottom}"/>'
        yield f'<text class="dim" x="{x:.1f}" y="{first - 9}" text-anchor="middle">{tick:g}</text>'
    for index, bar in enumerate(bars):
        yield from _drawn(bar, scale, first + index * _ROW)


def _drawn(bar: _Bar, scale: _Scale, top: int) -> Iterator[str]:
    figure, middle = bar.figure, top + _ROW / 2
    baseline, end = top + _ROW / 2 + 4.5, scale.x(figure.median)
    kind = "ours" if bar.is_ours else "peer"
    yield (
        f'<text class="ink" x="{_LEFT - 8}" y="{baseline:g}" text-anchor="end">'
        f"{escape(bar.label)}</text>"
    )
    yield (
        f'<rect class="{kind}" x="{_LEFT}" y="{middle - _BAR / 2:g}" rx="2"'
        f' width="{end - _LEFT:.1f}" height="{_BAR}"/>'
    )
    yield (
        f'<line class="range" x1="{scale.x(figure.low):.1f}" x2="{scale.x(figure.high):.1f}"'
        f' y1="{middle:g}" y2="{middle:g}"/>'
    )
    x = scale.x(figure.high) + 6
    yield f'<text class="ink strong" x="{x:.1f}" y="{baseline:g}">{number(figure.median)}</text>'
