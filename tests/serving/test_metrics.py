"""The table of docs/operations.md names every metric that there is, with its type and labels, and no other."""

import re
from pathlib import Path

from app.serving.metrics import Metrics

ROW = re.compile(r"^\| `((?:clip|process)_\w+)` \| (\w+) \|([^|]*)\|", re.M)


def test_the_documented_metrics_are_those_that_exist() -> None:
    metrics = Metrics()
    documented = {name: kind for name, kind, _ in ROW.findall(Path("docs/operations.md").read_text())}
    found = {}
    for family in metrics._registry.collect():
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        found[family.name + suffix] = family.type
    assert documented == found


def test_the_documented_labels_are_those_that_exist() -> None:
    metrics = Metrics()
    for name, kind, labels in ROW.findall(Path("docs/operations.md").read_text()):
        if kind != "info" and name.startswith("clip"):
            collector = metrics._registry._names_to_collectors[name]
            assert tuple(re.findall(r"`(\w+)`", labels)) == collector._labelnames, name
