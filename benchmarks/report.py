"""Draw the pictures of docs/images/bench and renew the tables of the pages that show them, from one run.

    python -m benchmarks.report [--results benchmarks/results.json]

A table is what stands between <!-- bench:NAME --> and <!-- /bench -->.
"""

import argparse
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.chart import Panel, Series, draw

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/operations.md", "docs/models.md")
NAMES = {"yardstick": "one lock", "ours": "this server"}
_KINDS = {"images": "pictures", "texts": "texts"}
_MARKED = re.compile(r"(<!-- bench:([a-z]+) -->\n).*?(<!-- /bench -->)", re.DOTALL)
_CONNECTIONS = ("1", "4", "16", "64")


def tables(run: dict[str, Any]) -> dict[str, str]:
    """Markdown by the name that stands in the page."""
    return {
        "machine": f"Measured on {run['date']}, {run['machine']}, with a full-size ViT-B/32 in float32 where nothing "
        f"else is said, {run['seconds']:g} s a figure, the load generator on the same cores.\n",
        "fast": _fast(run),
        "speed": _speed(run),
        "photos": _photos(run),
        "precisions": _precisions(run),
        "sizing": _sizing(run),
    }


def _fast(run: dict[str, Any]) -> str:
    fast = run["costs"]["fast images"]
    worst, middle, full_size = (
        f"{fast[f'{name}_cosine']:.5f}" for name in ("demo_image_worst", "demo_image_median", "image_worst")
    )
    found, before = (100 * run["costs"][name]["demo_top_1"] for name in ("fast images", "float32"))
    return (
        f"What it costs: the vectors of 300 pictures have a cosine of {worst} at worst to the exact ones, {middle}\n"
        f"in the middle (the demo model; {full_size} at worst with a full-size one of random weights), and of the\n"
        f"demo's held-out pictures {found:.1f} % are found first by their caption, {before:.1f} % without it.\n"
    )


def _speed(run: dict[str, Any]) -> str:
    lock, ours = run["servers"]["yardstick"], run["servers"]["ours"]

    def row(name: str, keys: Iterable[str], figure: str, digits: int, unit: str = "") -> list[str]:
        pairs = [(lock[key][figure], ours[key][figure]) for key in keys]
        columns = [", ".join(f"{pair[side]:,.{digits}f}" for pair in pairs) + unit for side in (0, 1)]
        return [name, *columns, ", ".join(f"{pair[1] / pair[0]:.2f}" for pair in pairs)]

    many = [f"images_{n}" for n in _CONNECTIONS], [f"texts_{n}" for n in _CONNECTIONS]
    beside = [f"text_beside_{n}_image_connections" for n in (4, 16)]
    rows = [
        row("pictures/s at 1, 4, 16, 64 connections", many[0], "per_second", 1),
        row("texts/s at 1, 4, 16, 64 connections", many[1], "per_second", 0),
        row("a text alone, p50", ["texts_1"], "p50_ms", 1, " ms"),
        row("a text beside 4 and 16 connections of pictures, p50", beside, "p50_ms", 0, " ms"),
        row("the same, p99", beside, "p99_ms", 0, " ms"),
        row("ready under full load, p99", ["ready_under_full_load"], "p99_ms", 0, " ms"),
        row("from start to ready", ["start"], "ready_after_s", 1, " s"),
        row("memory after the load", ["start"], "rss_mb", 0, " MB"),
    ]
    return _table(["", "one lock", "this server", "ratio"], rows)


def _photos(run: dict[str, Any]) -> str:
    rows = [
        [size, *(f"{rates[name]:.1f}" for name in ("yardstick", "ours", "fast"))]
        for size, rates in run["photos"].items()
    ]
    return _table(["JPEG photos/s at 4 connections", "one lock", "this server", "with `FAST_IMAGES=1`"], rows)


def _precisions(run: dict[str, Any]) -> str:
    rows = []
    for name, figures in run["costs"].items():
        serves = run["precisions"].get(name)
        speed = [f"{serves[f'{kind}_16']:.0f}" for kind in _KINDS] if serves else ["", ""]
        cosines = [
            ", ".join(f"{figures[f'demo_{kind}_{which}_cosine']:.5f}" for which in ("worst", "median"))
            for kind in ("image", "text")
        ]
        title = f"`{name}`" if serves else "`FAST_IMAGES=1`"
        rows.append([title, *speed, _memory(serves) if serves else "", *cosines, f"{figures['demo_top_1']:.3f}"])
    header = ["precision", "pictures/s", "texts/s", "memory (of its own)", "cosine of pictures: worst, median"]
    return _table([*header, "of texts", "found first (demo)"], rows)


def _sizing(run: dict[str, Any]) -> str:
    rows = [
        [
            f"`{name}`",
            f"{figures['ready_after_s']:.1f} s",
            _memory(figures["loaded"]),
            _memory(figures),
            f"{figures['model_mb']:.0f} MB",
        ]
        for name, figures in run["precisions"].items()
    ]
    memory = ["memory after the start (of its own)", "after pictures and texts"]
    return _table(["precision", "from start to ready", *memory, "model in the image"], rows)


def _memory(figures: dict[str, float]) -> str:
    return f"{figures['rss_mb']:.0f} MB ({figures['rss_anon_mb']:.0f})"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line).replace("|  |", "| |") + " |\n" for line in lines)


def charts(run: dict[str, Any]) -> dict[str, str]:
    """SVG by file name."""

    def panel(kind: str, title: str, figures: Sequence[str]) -> Panel:
        series = [
            Series(
                NAMES[name] + (f", {figure[:3]}" if len(figures) > 1 else ""),
                colour,
                [run["servers"][name][f"{kind}_{n}"][figure] for n in _CONNECTIONS],
                dashed=figure.startswith("p99"),
            )
            for colour, name in enumerate(NAMES)
            for figure in figures
        ]
        return Panel(title, _CONNECTIONS, series, "connections", logarithmic=len(figures) > 1)

    rates = [panel(kind, f"{name} a second", ["per_second"]) for kind, name in _KINDS.items()]
    waits = [panel(kind, f"{name}, ms", ["p50_ms", "p99_ms"]) for kind, name in _KINDS.items()]
    return {
        "throughput": draw(rates, "Throughput against connections"),
        "latency": draw(waits, "Latency against connections"),
    }


def renewed(page: str, tables: dict[str, str]) -> str:
    """The page with its marked tables written anew; raises KeyError for a mark that no table has."""
    return _MARKED.sub(lambda found: f"{found[1]}{tables[found[2]]}{found[3]}", page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results.json"))
    parser.add_argument("--into", type=Path, default=ROOT, help="where README.md and docs/ lie")
    options = parser.parse_args()
    write(json.loads(options.results.read_text(encoding="utf-8")), options.into)


def write(run: dict[str, Any], into: Path) -> None:
    """Renew pages and pictures below `into`."""
    for name in PAGES:
        page = into / name
        page.write_text(renewed(page.read_text(encoding="utf-8"), tables(run)), encoding="utf-8")
    folder = into / "docs/images/bench"
    folder.mkdir(parents=True, exist_ok=True)
    for name, svg in charts(run).items():
        (folder / f"{name}.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
