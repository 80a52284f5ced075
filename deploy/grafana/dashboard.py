"""Writes dashboards/multi2vec-clip.json, which Grafana loads: `make dashboard`, after a change here."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "dashboards" / "multi2vec-clip.json"
SERVERS = 'instance=~"$instance"'
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24


@dataclass(frozen=True)
class Panel:
    """A graph, or a `stat`, of some queries (PromQL, and the name of what it gives)."""

    title: str
    meaning: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"


def rate(metric: str, by: str = "", matching: str = "") -> str:
    """How fast a counter grows: the sum over the chosen servers, for each value of a label."""
    labels = f"{SERVERS},{matching}" if matching else SERVERS
    return f"sum{f' by ({by}) ' if by else ''}(rate({metric}{{{labels}}}[$__rate_interval]))"


def quantile(share: float, histogram: str, by: str = "") -> str:
    """The time within which a share of all is done."""
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket', f'le, {by}' if by else 'le')})"


def mean(histogram: str, by: str = "kind") -> str:
    return f"{rate(f'{histogram}_sum', by)} / {rate(f'{histogram}_count', by)}"


def gauge(metric: str, how: str = "sum") -> str:
    return f"{how}({metric}{{{SERVERS}}})"


RESPONSES = rate("clip_responses_total")
NOT_200 = rate("clip_responses_total", matching='status!="200"')
OURS = 'cause=~"out_of_memory|not_finite|unavailable|internal"'
THEIRS = 'cause!~"out_of_memory|not_finite|unavailable|internal"'

STATS = (
    Panel("Servers", "that Prometheus reaches", "none", ((gauge("clip_ready_seconds", "count"), ""),), "stat"),
    Panel("Ready after", "the slowest start", "s", ((gauge("clip_ready_seconds", "max"), ""),), "stat"),
    Panel("Texts", "computed a second", "ops", ((rate("clip_items_total", "", 'kind="texts"'), ""),), "stat"),
    Panel("Pictures", "computed a second", "ops", ((rate("clip_items_total", "", 'kind="images"'), ""),), "stat"),
    Panel("Within", "95 of 100 requests", "s", ((quantile(0.95, "clip_request_seconds"), ""),), "stat"),
    Panel(
        "Not answered with 200",
        "share of all requests",
        "percentunit",
        ((f"({NOT_200} or vector(0)) / {RESPONSES}", ""),),
        "stat",
    ),
)
GRAPHS = (
    Panel(
        "Items a second",
        "computed, joined to an equal one under way, and found in the cache",
        "ops",
        (
            (rate("clip_items_total", "kind"), "{{kind}} computed"),
            (rate("clip_items_joined_total", "kind"), "{{kind}} joined"),
            (rate("clip_items_cached_total", "kind"), "{{kind}} cached"),
        ),
    ),
    Panel(
        "Answers a second",
        "by status; 499 is a client that left",
        "reqps",
        ((rate("clip_responses_total", "status"), "{{status}}"),),
    ),
    Panel(
        "Time of a request",
        "from its headers to its answer; Weaviate waits 50 s",
        "s",
        tuple((quantile(share, "clip_request_seconds"), f"{share:.0%} within") for share in (0.5, 0.9, 0.99)),
    ),
    Panel(
        "Where the time goes",
        "means: an item waits and is prepared, its batch is computed",
        "s",
        (
            (mean("clip_waiting_seconds"), "{{kind}} waiting"),
            (mean("clip_preparing_seconds"), "{{kind}} preparing"),
            (mean("clip_computing_seconds"), "{{kind}} computing"),
        ),
    ),
    Panel("Items waiting", "whose vectors are not there yet", "none", ((gauge("clip_items_waiting"), "items"),)),
    Panel(
        "Bytes",
        "that requests not yet answered take, and bytes received a second",
        "bytes",
        ((gauge("clip_bytes_waiting"), "waiting"), (rate("clip_received_bytes_total"), "received a second")),
    ),
    Panel("Items in a batch", "means", "none", ((mean("clip_batch_items"), "{{kind}}"),)),
    Panel(
        "A batch on the device",
        "95 of 100 within",
        "s",
        ((quantile(0.95, "clip_computing_seconds", "kind"), "{{kind}}"),),
    ),
    Panel(
        "Refused a second",
        "for lack of memory, by what needed it; too_large never fits",
        "reqps",
        ((rate("clip_requests_refused_total", "cause"), "{{cause}}"),),
    ),
    Panel(
        "Items at fault a second",
        "by cause: pictures and texts that cannot be read, and (ours) faults of the server",
        "ops",
        (
            (rate("clip_items_failed_total", "kind, cause", THEIRS), "{{kind}}: {{cause}}"),
            (rate("clip_items_failed_total", "kind, cause", OURS), "{{kind}}: {{cause}} (ours)"),
        ),
    ),
    Panel(
        "Clients that left",
        "a second, before their answer, and the items that they no longer wait for",
        "ops",
        (
            (rate("clip_left_seconds_count"), "clients"),
            (rate("clip_items_dropped_total"), "items"),
        ),
    ),
    Panel(
        "Texts cut", "longer than the model reads, a second", "ops", ((rate("clip_texts_cut_total"), "texts cut"),)
    ),
    Panel(
        "Processes",
        "that take requests; of these replaced a second, and lost of those that compute",
        "none",
        (
            (gauge("clip_fronts"), "fronts"),
            (rate("clip_fronts_replaced_total"), "replaced a second"),
            (gauge("clip_devices_lost_total"), "devices lost"),
        ),
    ),
    Panel(
        "Cores in use",
        "CPU time, all threads",
        "none",
        ((rate("process_cpu_seconds_total", "instance"), "{{instance}}"),),
    ),
    Panel(
        "Memory",
        "that the servers hold",
        "bytes",
        ((f"process_resident_memory_bytes{{{SERVERS}}}", "{{instance}}"),),
    ),
)
MODEL = f"clip_model_info{{{SERVERS}}}"


def placed(panel: Panel, number: int, x: int, y: int, width: int, height: int) -> dict[str, Any]:
    """A panel as Grafana's JSON has it."""
    targets = [
        {"refId": chr(ord("A") + i), "datasource": SOURCE, "expr": expr, "legendFormat": legend}
        for i, (expr, legend) in enumerate(panel.queries)
    ]
    graph = {"fillOpacity": 10, "lineWidth": 2, "showPoints": "never", "spanNulls": True}
    options = (
        {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "none", "graphMode": "area"}
        if panel.kind == "stat"
        else {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
    )
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.meaning,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": width, "h": height},
        "targets": targets,
        "options": options,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "custom": graph if panel.kind == "timeseries" else {}},
            "overrides": [],
        },
    }


def model_table(number: int, y: int) -> dict[str, Any]:
    """Which model each server has, as a table."""
    hidden = {name: True for name in ("Time", "Value", "__name__", "job")}
    return {
        "id": number,
        "type": "table",
        "title": "What serves",
        "datasource": SOURCE,
        "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 5},
        "targets": [{"refId": "A", "datasource": SOURCE, "expr": MODEL, "format": "table", "instant": True}],
        "transformations": [{"id": "organize", "options": {"excludeByName": hidden}}],
        "options": {},
        "fieldConfig": {"defaults": {}, "overrides": []},
    }


def dashboard() -> dict[str, Any]:
    """All of it, as Grafana's JSON."""
    stat = WIDTH // len(STATS)
    panels = [placed(panel, i + 1, i * stat, 0, stat, 4) for i, panel in enumerate(STATS)]
    y = 4
    for i, panel in enumerate(GRAPHS):
        panels.append(placed(panel, len(panels) + 1, i % 2 * 12, y + i // 2 * 8, 12, 8))
    panels.append(model_table(len(panels) + 1, y + (len(GRAPHS) + 1) // 2 * 8))
    return {
        "uid": "multi2vec-clip",
        "title": "multi2vec-clip",
        "tags": ["multi2vec-clip", "weaviate"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
                {
                    "name": "instance",
                    "label": "Server",
                    "type": "query",
                    "datasource": SOURCE,
                    "query": "label_values(clip_ready_seconds, instance)",
                    "refresh": 2,
                    "multi": True,
                    "includeAll": True,
                    "allValue": ".*",
                    "current": {"text": "All", "value": "$__all"},
                },
            ]
        },
        "panels": panels,
    }


def text() -> str:
    """The contents of the file."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
