"""Line charts as SVG, readable on a light and on a dark page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

WIDTH, HEIGHT = 380, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 34, 40
_STYLE = """<style>
text{font:12px system-ui,sans-serif;fill:#52514e}.title{font-weight:600;fill:#1f1e1c}
.grid{stroke:#dddbd5}.line{fill:none;stroke-width:2}.faint{stroke-dasharray:4 3}.s0{stroke:#8a8882}.s1{stroke:#1f6fd0}
@media(prefers-color-scheme:dark){text{fill:#b5b3ac}.title{fill:#f2f1ee}.grid{stroke:#3f3e3b}
.s0{stroke:#96948d}.s1{stroke:#5b9df0}}
</style>"""


@dataclass(frozen=True)
class Series:
    """A value for each place along the axis. `colour` is 0 (grey) or 1 (blue)."""

    name: str
    colour: int
    values: Sequence[float]
    dashed: bool = False

    @property
    def style(self) -> str:
        return f"line s{self.colour}" + (" faint" if self.dashed else "")


@dataclass(frozen=True)
class Panel:
    """One chart: its title says the unit; `places` are the labels along the axis, `below` what they are."""

    title: str
    places: Sequence[str]
    series: Sequence[Series]
    below: str
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
        lines.append(f'<path class="{series.style}" d="M{left:.0f} {height - 11}h22"/>')
        lines.append(f'<text x="{left + 27:.0f}" y="{height - 7}">{escape(series.name)}</text>')
        left += 6.8 * len(series.name) + 45
    return "\n".join([*lines, "</svg>"]) + "\n"


def _panel(panel: Panel) -> Iterator[str]:
    values = [value for series in panel.series for value in series.values]
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
        yield f'<text x="{_LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:,g}</text>'
    step = (WIDTH - _LEFT - _RIGHT) / len(panel.places)
    middles = [_LEFT + step * (number + 0.5) for number in range(len(panel.places))]
    for place, middle in zip(panel.places, middles, strict=True):
        yield f'<text x="{middle:.1f}" y="{HEIGHT - _BOTTOM + 16}" text-anchor="middle">{escape(place)}</text>'
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    yield f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(panel.below)}</text>'
    for series in panel.series:
        points = "L".join(f"{x:.1f} {y(value):.1f}" for x, value in zip(middles, series.values, strict=True))
        yield f'<path class="{series.style}" d="M{points}"/>'


def _steps(most: float) -> list[float]:
    """Round numbers from 0 to above `most`."""
    size = 10.0 ** floor(log10(most / 4))
    size *= next(factor for factor in (1, 2, 5, 10) if factor * size * 4 >= most)
    return [size * number for number in range(ceil(1.05 * most / size) + 1)]


def _powers(least: float, most: float) -> list[float]:
    """Powers of ten around the values."""
    low = min(floor(log10(least)), ceil(log10(most)) - 1)
    return [10.0**power for power in range(low, ceil(log10(most)) + 1)]
