"""Line and bar charts as SVG, readable on a light and on a dark page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

WIDTH, HEIGHT = 380, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 34, 40
_STYLE = """<style>
text{font:12px system-ui,sans-serif;fill:#52514e}.title{font-weight:600;fill:#1f1e1c}.value{font-size:11px}
.grid{stroke:#dddbd5}.line{fill:none;stroke-width:2}.faint{stroke-dasharray:4 3}
.s0{stroke:#8a8882}.s1{stroke:#1f6fd0}.s2{stroke:#c2571a}.s3{stroke:#14806b}
.b0{fill:#8a8882}.b1{fill:#1f6fd0}.b2{fill:#c2571a}.b3{fill:#14806b}
@media(prefers-color-scheme:dark){text{fill:#b5b3ac}.title{fill:#f2f1ee}.grid{stroke:#3f3e3b}
.s0{stroke:#96948d}.s1{stroke:#5b9df0}.s2{stroke:#ea8a4f}.s3{stroke:#3fb79d}
.b0{fill:#96948d}.b1{fill:#5b9df0}.b2{fill:#ea8a4f}.b3{fill:#3fb79d}}
</style>"""


@dataclass(frozen=True)
class Series:
    """A value for each place along the axis; None where there is none. `colour` is 0 (grey) to 3."""

    name: str
    colour: int
    values: Sequence[float | None]
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One chart: its title says the unit; `places` are the labels along the axis, `below` what they are."""

    title: str
    places: Sequence[str]
    series: Sequence[Series]
    below: str
    bars: bool = False
    logarithmic: bool = False


def draw(panels: Sequence[Panel], name: str) -> str:
    """The panels side by side over one legend; `name` is read out to who cannot see it."""
    legend = {series.name: series for panel in panels for series in panel.series}
    width, height = WIDTH * len(panels), HEIGHT + 26
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="{escape(name)}">',
        _STYLE,
    ]
    for number, panel in enumerate(panels):
        lines += [f'<g transform="translate({number * WIDTH} 0)">', *_panel(panel), "</g>"]
    left = float(_LEFT)
    for series in legend.values():
        bars = any(series in panel.series for panel in panels if panel.bars)
        mark = (
            f'<rect class="b{series.colour}" x="{left:.0f}" y="{height - 16}" width="12" height="10"/>'
            if bars
            else f'<path class="{_line_class(series)}" d="M{left:.0f} {height - 11}h22"/>'
        )
        start = left + (17 if bars else 27)
        lines += [mark, f'<text x="{start:.0f}" y="{height - 7}">{escape(series.name)}</text>']
        left = start + 6.8 * len(series.name) + 18
    return "\n".join([*lines, "</svg>"]) + "\n"


def _panel(panel: Panel) -> Iterator[str]:
    values = [value for series in panel.series for value in series.values if value is not None]
    ticks = _powers(min(values), max(values)) if panel.logarithmic else _steps(max(values))
    plot = HEIGHT - _TOP - _BOTTOM

    def y(value: float) -> float:
        low, high, at = ticks[0], ticks[-1], value
        if panel.logarithmic:
            low, high, at = log10(low), log10(high), log10(value)
        return _TOP + plot * (high - at) / (high - low)

    yield f'<text class="title" x="{_LEFT - 42}" y="18">{escape(panel.title)}</text>'
    for tick in ticks:
        yield f'<path class="grid" d="M{_LEFT} {y(tick):.1f}H{WIDTH - _RIGHT}"/>'
        yield f'<text x="{_LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{_shown(tick)}</text>'
    step = (WIDTH - _LEFT - _RIGHT) / len(panel.places)
    middles = [_LEFT + step * (number + 0.5) for number in range(len(panel.places))]
    for place, middle in zip(panel.places, middles, strict=True):
        yield f'<text x="{middle:.1f}" y="{HEIGHT - _BOTTOM + 16}" text-anchor="middle">{escape(place)}</text>'
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    yield f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(panel.below)}</text>'
    wide = min(34.0, 0.8 * step / len(panel.series))
    for number, series in enumerate(panel.series):
        points = [(x, value) for x, value in zip(middles, series.values, strict=True) if value is not None]
        if not panel.bars:
            path = "L".join(f"{x:.1f} {y(value):.1f}" for x, value in points)
            yield f'<path class="{_line_class(series)}" d="M{path}"/>'
            continue
        for x, value in points:
            left, top = x + wide * (number - len(panel.series) / 2), y(value)
            yield (
                f'<rect class="b{series.colour}" x="{left + 1:.1f}" y="{top:.1f}" width="{wide - 2:.1f}" '
                f'height="{HEIGHT - _BOTTOM - top:.1f}"/>'
            )
            yield (
                f'<text class="value" x="{left + wide / 2:.1f}" y="{top - 3:.1f}" '
                f'text-anchor="middle">{_shown(value)}</text>'
            )


def _line_class(series: Series) -> str:
    return f"line s{series.colour}" + (" faint" if series.dashed else "")


def _steps(most: float) -> list[float]:
    """Round numbers from 0 to above `most`."""
    size = 10.0 ** floor(log10(most / 4))
    size *= next(factor for factor in (1, 2, 5, 10) if factor * size * 4 >= most)
    return [size * number for number in range(ceil(1.05 * most / size) + 1)]


def _powers(least: float, most: float) -> list[float]:
    """Powers of ten around the values."""
    low = min(floor(log10(least)), ceil(log10(most)) - 1)
    return [10.0**power for power in range(low, ceil(log10(most)) + 1)]


def _shown(value: float) -> str:
    return f"{value:.1f}" if value < 10 and value != round(value) else f"{value:,.0f}"
