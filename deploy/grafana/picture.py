"""Draws the dashboard's panels from a running Prometheus, where no Grafana is at hand.

    python -m deploy.grafana.picture http://localhost:9091 docs/dashboard.png [MINUTES]

Needs matplotlib.
"""

import json
import math
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MultipleLocator

from deploy.grafana.dashboard import GRAPHS, STATS, Panel

BACK, CARD, INK, DIM = "#111217", "#181b1f", "#ccccdc", "#8e8e9f"
COLOURS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9")


def seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 or value == 0 else f"{value * 1000:.3g} ms"


def size(value: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.3g} {unit}"


UNITS: dict[str, Callable[[float], str]] = {
    "s": seconds,
    "bytes": size,
    "percentunit": "{:.1%}".format,
    "ops": "{:.4g}/s".format,
    "reqps": "{:.4g}/s".format,
    "none": "{:.4g}".format,
}


def ask(prometheus: str, path: str, **parameters: str) -> list[Any]:
    url = f"{prometheus}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=30) as response:
        result: list[Any] = json.load(response)["data"]["result"]
    return result


def filled(expression: str) -> str:
    return expression.replace("$__rate_interval", "20s").replace("$instance", ".*")


def legend(template: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        template = template.replace("{{" + name + "}}", value)
    return template


def draw_stat(axes: Axes, panel: Panel, prometheus: str) -> None:
    result = ask(prometheus, "query", query=filled(panel.queries[0][0]))
    value = float(result[0]["value"][1]) if result else math.nan
    axes.axis("off")
    axes.text(0.04, 0.86, panel.title, color=INK, fontsize=10, weight="bold", va="top", transform=axes.transAxes)
    axes.text(0.04, 0.64, panel.meaning, color=DIM, fontsize=8, va="top", transform=axes.transAxes)
    text = "no data" if math.isnan(value) else UNITS[panel.unit](value)
    axes.text(0.5, 0.25, text, color=COLOURS[0], fontsize=21, ha="center", va="center", transform=axes.transAxes)


def draw_graph(axes: Axes, panel: Panel, prometheus: str, start: float, end: float) -> None:
    axes.set_title(panel.title, color=INK, fontsize=10, weight="bold", loc="left", pad=18)
    axes.text(0, 1.03, panel.meaning, color=DIM, fontsize=7.5, transform=axes.transAxes)
    colours = iter(COLOURS * 3)
    drawn = False
    for expression, template in panel.queries:
        step = f"{max(1, (end - start) / 240):.0f}"
        for series in ask(
            prometheus, "query_range", query=filled(expression), start=f"{start}", end=f"{end}", step=step
        ):
            at, values = zip(*((float(t) - end, float(v)) for t, v in series["values"]), strict=True)
            colour = next(colours)
            axes.plot(
                [t / 60 for t in at], values, color=colour, linewidth=1.4, label=legend(template, series["metric"])
            )
            axes.fill_between([t / 60 for t in at], values, color=colour, alpha=0.08)
            drawn = True
    axes.set_xlim((start - end) / 60, 0)
    axes.set_ylim(bottom=0)
    if panel.unit == "bytes" and (top := axes.get_ylim()[1]) > 1:
        axes.yaxis.set_major_locator(MultipleLocator(2 ** math.floor(math.log2(top / 3))))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: UNITS[panel.unit](value)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} min"))
    axes.tick_params(colors=DIM, labelsize=7.5, length=0)
    axes.grid(color="#2c3235", linewidth=0.6)
    if drawn:
        axes.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.12),
            ncols=6,
            fontsize=7.5,
            frameon=False,
            labelcolor=INK,
            handlelength=1.0,
            columnspacing=1.2,
        )
    else:
        axes.text(0.5, 0.5, "none", color=DIM, ha="center", va="center", transform=axes.transAxes)


def draw(prometheus: str, path: str, minutes: float) -> None:
    """Write the dashboard of the last `minutes` into a picture."""
    end = time.time()
    rows = (len(GRAPHS) + 1) // 2
    figure = plt.figure(figsize=(15, 1.3 + 2.75 * rows), facecolor=BACK)
    outer = figure.add_gridspec(
        2, 1, height_ratios=(1, 2.4 * rows), hspace=0.06 + 0.2 / rows, left=0.045, right=0.985
    )
    outer.update(top=0.985, bottom=0.03)
    stats = outer[0].subgridspec(1, len(STATS), wspace=0.04)
    for i, panel in enumerate(STATS):
        axes = figure.add_subplot(stats[i])
        axes.patch.set_facecolor(CARD)
        draw_stat(axes, panel, prometheus)
        axes.add_patch(plt.Rectangle((0, 0), 1, 1, transform=axes.transAxes, color=CARD, zorder=-1))
    graphs = outer[1].subgridspec(rows, 2, hspace=0.62, wspace=0.12)
    for i, panel in enumerate(GRAPHS):
        axes = figure.add_subplot(graphs[i // 2, i % 2], facecolor=CARD)
        for spine in axes.spines.values():
            spine.set_visible(False)
        draw_graph(axes, panel, prometheus, end - minutes * 60, end)
    figure.savefig(path, dpi=80, facecolor=BACK)


if __name__ == "__main__":
    draw(sys.argv[1], sys.argv[2], float(sys.argv[3]) if len(sys.argv) > 3 else 10)
