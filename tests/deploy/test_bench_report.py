"""The tables and pictures of the docs are made from one run of the benchmarks."""

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.report import PAGES, charts, renewed, tables, write
from tests.support.server import ROOT


def load_figures(speed: float) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for kind in ("images", "texts"):
        for connections in (1, 4, 16, 64):
            figures[f"{kind}_{connections}"] = {
                "per_second": speed * connections**0.3,
                "p50_ms": 1000 * connections / speed,
                "p99_ms": 1700 * connections / speed,
                "failed": 0,
            }
    for connections in (4, 16):
        figures[f"text_beside_{connections}_image_connections"] = {"p50_ms": 900 / speed, "p99_ms": 1234.5 / speed}
    figures["ready_under_full_load"] = {"p50_ms": 3.0, "p99_ms": 12.5, "max_ms": 20.0, "failed": 0}
    figures["start"] = {"ready_after_s": 2.5, "rss_mb": 740.0, "rss_anon_mb": 640.0}
    return figures


@pytest.fixture
def run() -> dict[str, Any]:
    kinds = ("image", "text", "demo_image", "demo_text")
    cosines = {f"{kind}_{which}_cosine": 0.99967 for kind in kinds for which in ("worst", "median")}
    precision = {"ready_after_s": 2.25, "rss_mb": 500.0, "rss_anon_mb": 400.0, "images_16": 17.0, "texts_16": 100.0}
    loaded = {"loaded": {"rss_mb": 321.0, "rss_anon_mb": 300.0}, "model_mb": 155.5}
    return {
        "machine": "2 CPUs (of a test)",
        "date": "2026-11-26",
        "seconds": 6.0,
        "servers": {"yardstick": load_figures(9.0), "ours": load_figures(18.0)},
        "photos": {size: {"yardstick": 3.0, "ours": 7.5, "fast": 14.25} for size in ("800x600", "4000x3000")},
        "precisions": {name: {**precision, **loaded} for name in ("float32", "int8")},
        "costs": {name: {**cosines, "demo_top_1": 0.931} for name in ("float32", "int8", "fast images")},
    }


def test_every_mark_of_the_pages_has_its_table_and_every_picture_is_shown(run: dict[str, Any]) -> None:
    pages = [(ROOT / name).read_text(encoding="utf-8") for name in PAGES]
    assert set(re.findall(r"<!-- bench:(\w+) -->", "".join(pages))) == tables(run).keys()
    assert all(page.count("<!-- bench:") == page.count("<!-- /bench -->") for page in pages)
    assert set(re.findall(r"images/bench/(\w+)\.svg", "".join(pages))) == charts(run).keys()


def test_what_is_renewed_is_what_was_measured_and_nothing_else(run: dict[str, Any], tmp_path: Path) -> None:
    before = {name: (ROOT / name).read_text(encoding="utf-8") for name in PAGES}
    (tmp_path / "docs").mkdir()
    for name, text in before.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    write(json.loads(json.dumps(run)), tmp_path)
    after = {name: (tmp_path / name).read_text(encoding="utf-8") for name in PAGES}
    assert (
        "| pictures/s at 1, 4, 16, 64 connections | 9.0, 13.6, 20.7, 31.3 | 18.0, 27.3, 41.4, 62.7 |"
        in after[PAGES[0]]
    )
    assert "| `FAST_IMAGES=1` |" in after[PAGES[2]] and "0.99967" in after[PAGES[2]]
    assert "| 4000x3000 | 3.0 | 7.5 | 14.2 |" in after[PAGES[1]] and "321 MB (300)" in after[PAGES[1]]
    empty = {name: "" for name in tables(run)}
    for name in PAGES:
        assert renewed(after[name], empty) == renewed(before[name], empty)
    write(run, tmp_path)
    assert after == {name: (tmp_path / name).read_text(encoding="utf-8") for name in PAGES}


def test_pictures_show_every_value_within_their_frame(run: dict[str, Any]) -> None:
    for name, svg in charts(run).items():
        root = ElementTree.fromstring(svg)
        width, height = float(root.attrib["width"]), float(root.attrib["height"])
        assert "prefers-color-scheme:dark" in svg and root.attrib["aria-label"], name
        drawn = [element for element in root.iter() if element.tag.endswith(("rect", "path"))]
        assert len(drawn) > 4, name
        for element in root.iter():
            for key, most in (("x", width), ("y", height)):
                assert 0 <= float(element.attrib.get(key, 0)) <= most, (name, element.attrib)
