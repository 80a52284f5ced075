"""The dashboard and the alerts ask for metrics that exist, and Prometheus takes them."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import promql_parser as promql
import pytest
import yaml

from deploy.grafana import dashboard
from tests.support.server import ROOT, free_port

PROMETHEUS = ROOT / "deploy" / "prometheus"
ALERTS = [
    rule for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
PANELS = json.loads(dashboard.FILE.read_text())["panels"]
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
# What Prometheus adds to each sample, and what it says of each server itself.
ADDED = {"instance", "job"}
# What has no sample until it happens, and does not in the load of the test.
RARE = (
    "clip_requests_refused_total",
    "clip_items_failed_total",
    "clip_items_joined_total",
    "clip_items_dropped_total",
)


def metrics() -> dict[str, set[str]]:
    """Names of samples and their labels: the table of docs/operations.md, which is tested against the server."""
    rows = re.findall(
        r"^\| `((?:clip|process)_\w+)` \| (\w+) \| (.*?) \|", (ROOT / "docs" / "operations.md").read_text(), re.M
    )
    found: dict[str, set[str]] = {"up": set()}
    for name, kind, labels in rows:
        own = set(re.findall(r"`(\w+)`", labels))
        if kind == "histogram":
            found |= {f"{name}_bucket": own | {"le"}, f"{name}_sum": own, f"{name}_count": own}
        else:
            found[name] = own
    return found


def described(name: str) -> str:
    """A metric's row of the same table."""
    return (ROOT / "docs" / "operations.md").read_text().split(f"\n| `{name}` |")[1].split("\n")[0]


def filled(expression: str) -> str:
    """With Grafana's variables replaced, as Grafana does it."""
    return expression.replace("$__rate_interval", "20s").replace("$instance", ".*")


def parts(node: Any) -> Iterator[Any]:
    """An expression and all below it."""
    yield node
    below = [getattr(node, name, None) for name in ("lhs", "rhs", "expr", "param", "vector_selector")]
    for part in [*below, *getattr(node, "args", [])]:
        if part is not None:
            yield from parts(part)


def check_names(expression: str, where: str) -> None:
    known = metrics()
    tree = list(parts(promql.parse(filled(expression))))
    selectors = [node for node in tree if isinstance(node, promql.VectorSelector)]
    assert selectors, where
    labels = set(ADDED)
    for selector in selectors:
        assert selector.name in known, f"{where}: there is no metric {selector.name}"
        labels |= known[selector.name]
        asked = {matcher.name for matcher in selector.matchers.matchers}
        assert asked <= known[selector.name] | ADDED, f"{where}: {selector.name} has no label {asked}"
        causes = [matcher.value.split("|") for matcher in selector.matchers.matchers if matcher.name == "cause"]
        for cause in itertools.chain(*causes):
            assert f"`{cause}`" in described(selector.name), f"{where}: {selector.name} has no cause {cause}"
    for node in tree:
        if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            assert set(node.modifier.labels) <= labels, f"{where}: {node.modifier.labels}"


def test_the_dashboard_is_what_its_script_writes() -> None:
    assert dashboard.FILE.read_text() == dashboard.text(), "run `make dashboard`"


def test_the_dashboard_asks_for_what_there_is() -> None:
    for title, expression in QUERIES:
        check_names(expression, title)


def test_a_legend_names_labels_that_its_query_keeps() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            for label in re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")):
                assert label == "instance" or re.search(rf"by \([^)]*\b{label}\b", target["expr"]), panel["title"]


def test_the_alerts_ask_for_what_there_is() -> None:
    for rule in ALERTS:
        check_names(rule["expr"], rule["alert"])
        assert {"summary", "description"} == set(rule["annotations"]) and rule["labels"]["severity"]


def test_the_test_of_the_alerts_has_series_that_there_are() -> None:
    series = re.findall(r"(clip_\w+_total)\{[^}]*cause=\"(\w+)\"", (PROMETHEUS / "alerts_test.yml").read_text())
    assert series and all(f"`{cause}`" in described(name) for name, cause in series)


def test_every_metric_of_the_service_is_on_the_dashboard() -> None:
    """Those of a single server's file handles and addresses are for a closer look."""
    asked = {
        selector.name
        for _, query in QUERIES
        for selector in parts(promql.parse(filled(query)))
        if isinstance(selector, promql.VectorSelector)
    }
    ours = {re.sub(r"_(bucket|sum|count)$", "", name) for name in metrics() if name.startswith("clip_")}
    assert ours == {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked if name.startswith("clip_")}


def test_the_compose_file_mounts_what_is_there() -> None:
    services = yaml.safe_load((ROOT / "deploy/docker/docker-compose.monitoring.yml").read_text())["services"]
    (target,) = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"][0]["static_configs"][0][
        "targets"
    ]
    base = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert target.split(":")[0] in base and not set(services) & set(base)
    source = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text())[
        "datasources"
    ][0]
    assert re.fullmatch(r"http://(\w+):9090", source["url"])[1] in services  # type: ignore[index]
    taken = {port.split(":")[0] for service in base.values() for port in service["ports"]}
    for service in services.values():
        assert not taken & {str(port).split(":")[0] for port in service["ports"]}
        for volume in service["volumes"]:
            assert not volume.startswith("./") or (ROOT / volume.split(":")[0]).is_dir(), volume
    folder = yaml.safe_load((ROOT / "deploy/grafana/provisioning/dashboards/multi2vec-clip.yml").read_text())[
        "providers"
    ][0]["options"]["path"]
    assert f"./deploy/grafana/dashboards:{folder}:ro" in services["grafana"]["volumes"]


def program(name: str) -> str:
    """Prometheus' own, where deploy/prometheus/install.sh or the system has it."""
    places = os.pathsep.join(
        [os.environ.get("PATH", os.defpath), str(Path(sys.prefix) / "prometheus" / "usr" / "bin")]
    )
    found = shutil.which(name, path=places)
    if found is None:
        pytest.skip(f"{name} is not installed; deploy/prometheus/install.sh brings it")
    return found


def test_promtool_finds_nothing_and_each_alert_fires_when_it_should() -> None:
    for command in (["check", "config", "prometheus.yml"], ["test", "rules", "alerts_test.yml"]):
        result = subprocess.run([program("promtool"), *command], cwd=PROMETHEUS, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
    tested = (PROMETHEUS / "alerts_test.yml").read_text()
    assert {rule["alert"] for rule in ALERTS} == set(re.findall(r'alertname="(\w+)"', tested))


@pytest.fixture(scope="module")
def prometheus(serve: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus that has watched the demo at work for some seconds."""
    binary = program("prometheus")
    server = serve(ROOT / "demo" / "models")
    folder = tmp_path_factory.mktemp("prometheus")
    job = {"job_name": "multi2vec-clip", "static_configs": [{"targets": [server.removeprefix("http://")]}]}
    config = {"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    url = f"127.0.0.1:{free_port()}"
    places = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    process = subprocess.Popen([binary, *places, f"--web.listen-address={url}", "--log.level=error"])
    try:
        for i in range(60):
            payload = {
                "texts": [f"a red circle {i}", "a blue square"],
                "images": [PIXEL, PIXEL, "aGVsbG8="][: 2 + (i % 9 == 0)],
            }
            httpx.post(f"{server}/vectorize", json=payload, timeout=60)
            time.sleep(0.1)
        yield f"http://{url}"
    finally:
        process.terminate()
        process.wait(60)


# 1x1, red.
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8Dwn4EIwDiqEAAnGgYBJ5YqBQAAAABJRU5ErkJggg=="


def test_prometheus_fills_the_dashboard(prometheus: str) -> None:
    deadline = time.monotonic() + 120
    wanted = {(title, query) for title, query in QUERIES if not any(name in query for name in RARE)}
    while wanted and time.monotonic() < deadline:
        for title, query in sorted(wanted):
            answer = httpx.get(f"{prometheus}/api/v1/query", params={"query": filled(query)})
            if answer.status_code == 503:  # it has just started
                break
            assert answer.status_code == 200, f"{title}: {answer.text}"
            if answer.json()["data"]["result"]:
                wanted.remove((title, query))
        time.sleep(0.5)
    assert not wanted, sorted(title for title, _ in wanted)
    for title, query in QUERIES:
        answer = httpx.get(f"{prometheus}/api/v1/query", params={"query": filled(query)}).json()
        assert answer["status"] == "success", f"{title}: {answer}"
