"""Draw the pictures of docs/images/bench and renew the tables of the pages that show them, from one run.

    python -m benchmarks.report [--results benchmarks/results.json]

A table is what stands between <!-- bench:NAME --> and <!-- /bench -->.
"""

import argparse
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.chart import Panel, Series, draw

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/operations.md", "docs/models.md")
NAMES = {"yardstick": "one lock", "ours": "this server", "fast": "this server, FAST_IMAGES=1"}
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
    photos = run["photos"]
    header = ["JPEG photos/s at 4 connections", "one lock", "this server", "with `FAST_IMAGES=1`"]
    rows = [
        [size, *(f"{rates[name]:.1f}" for name in ("yardstick", "ours", "fast"))] for size, rates in photos.items()
    ]
    return _table(header, rows)


def _precisions(run: dict[str, Any]) -> str:
    costs = run["costs"]
    rows = []
    for name, figures in costs.items():
        serves = run["precisions"].get(name)
        speed = [f"{serves[f'{kind}_16']:.0f}" for kind in ("images", "texts")] if serves else ["", ""]
        memory = [f"{serves['rss_mb']:.0f} MB ({serves['rss_anon_mb']:.0f})"] if serves else [""]
        cosines = [
            f"{figures[f'demo_{kind}_worst_cosine']:.5f}, {figures[f'demo_{kind}_median_cosine']:.5f}"
            for kind in ("image", "text")
        ]
        title = f"`{name}`" if serves else "`FAST_IMAGES=1`"
        rows.append([title, *speed, *memory, *cosines, f"{figures['demo_top_1']:.3f}"])
    header = [
        "precision",
        "pictures/s",
        "texts/s",
        "memory (of its own)",
        "cosine of pictures: worst, median",
        "of texts",
        "found first (demo)",
    ]
    return _table(header, rows)


def _sizing(run: dict[str, Any]) -> str:
    rows = []
    for name, figures in run["precisions"].items():
        rows.append(
            [
                f"`{name}`",
                f"{figures['ready_after_s']:.1f} s",
                f"{figures['loaded']['rss_mb']:.0f} MB ({figures['loaded']['rss_anon_mb']:.0f})",
                f"{figures['rss_mb']:.0f} MB ({figures['rss_anon_mb']:.0f})",
                f"{figures['model_mb']:.0f} MB",
            ]
        )
    header = [
        "precision",
        "from start to ready",
        "memory after the start (of its own)",
        "after pictures and texts",
        "model in the image",
    ]
    return _table(header, rows)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line).replace("|  |", "| |") + " |\n" for line in lines)


def charts(run: dict[str, Any]) -> dict[str, str]:
    """SVG by file name."""
    servers, photos, precisions = run["servers"], run["photos"], run["precisions"]
    both = (("yardstick", 0), ("ours", 1))

    def against_connections(kind: str, title: str, figures: Iterable[str], logarithmic: bool) -> Panel:
        series = [
            Series(
                NAMES[name] + (f", {figure[:3]}" if logarithmic else ""),
                colour,
                [servers[name][f"{kind}_{n}"][figure] for n in _CONNECTIONS],
                dashed=figure.startswith("p99"),
            )
            for name, colour in both
            for figure in figures
        ]
        return Panel(title, _CONNECTIONS, series, "connections", logarithmic=logarithmic)

    return {
        "throughput": draw(
            [
                against_connections("images", "pictures a second", ["per_second"], False),
                against_connections("texts", "texts a second", ["per_second"], False),
            ],
            "Throughput against connections",
        ),
        "latency": draw(
            [
                against_connections("images", "a picture, ms", ["p50_ms", "p99_ms"], True),
                against_connections("texts", "a text, ms", ["p50_ms", "p99_ms"], True),
            ],
            "Latency against connections",
        ),
        "query": draw(
            [
                Panel(
                    f"a text beside {n} connections of pictures, ms",
                    ("p50", "p99"),
                    [
                        Series(
                            NAMES[name],
                            colour,
                            [servers[name][f"text_beside_{n}_image_connections"][f"{p}_ms"] for p in ("p50", "p99")],
                        )
                        for name, colour in both
                    ],
                    "",
                    bars=True,
                )
                for n in (4, 16)
            ],
            "Latency of a query beside an import",
        ),
        "photos": draw(
            [
                Panel(
                    title,
                    list(photos),
                    [
                        Series(NAMES[name], colour, [rates[name] / per[size] for size, rates in photos.items()])
                        for name, colour in (*both, ("fast", 2))
                    ],
                    "pixels of the JPEG",
                    bars=True,
                )
                for title, per in (
                    ("pictures a second at 4 connections", dict.fromkeys(photos, 1.0)),
                    ("the same, beside one lock", {size: rates["yardstick"] for size, rates in photos.items()}),
                )
            ],
            "Pictures a second by size",
        ),
        "memory": draw(
            [
                Panel(
                    "memory after pictures and texts, MB",
                    list(precisions),
                    [
                        Series("resident", 1, [each["rss_mb"] for each in precisions.values()]),
                        Series("of it its own", 3, [each["rss_anon_mb"] for each in precisions.values()]),
                    ],
                    "PRECISION",
                    bars=True,
                ),
                Panel(
                    "pictures a second at 16 connections",
                    list(precisions),
                    [Series("pictures/s", 2, [each["images_16"] for each in precisions.values()])],
                    "PRECISION",
                    bars=True,
                ),
            ],
            "Memory and speed by precision",
        ),
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
