"""The table of docs/operations.md names every metric that there is, with its type and labels, and no other."""

import re
from collections.abc import Iterator
from pathlib import Path

from app.errors import ServiceError
from app.serving.budget import Budget, limits_for
from app.serving.metrics import Metrics
from app.settings import Settings

PAGE = Path("docs/operations.md").read_text()
ROW = re.compile(r"^\| `((?:clip|process)_\w+)` \| (\w+) \|([^|]*)\|", re.M)


def test_the_documented_metrics_are_those_that_exist() -> None:
    metrics = Metrics()
    documented = {name: kind for name, kind, _ in ROW.findall(PAGE)}
    found = {}
    for family in metrics._registry.collect():
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        found[family.name + suffix] = family.type
    assert documented == found


def test_the_documented_labels_are_those_that_exist() -> None:
    metrics = Metrics()
    for name, kind, labels in ROW.findall(PAGE):
        if kind != "info" and name.startswith("clip"):
            collector = metrics._registry._names_to_collectors[name]
            assert tuple(re.findall(r"`(\w+)`", labels)) == collector._labelnames, name


def documented_causes(metric: str) -> set[str]:
    return set(re.findall(r"`([a-z0-9_]+)`", PAGE.split(f"\n| `{metric}` |")[1].split("\n")[0].split(" | ")[2]))


def kinds_of(error: type[ServiceError]) -> Iterator[type[ServiceError]]:
    yield error
    for kind in error.__subclasses__():
        yield from kinds_of(kind)


def test_the_documented_causes_are_those_that_exist() -> None:
    causes = {kind.cause for kind in kinds_of(ServiceError)} | {"not_finite"}
    assert documented_causes("clip_items_failed_total") == causes
    budget = Budget(limits_for(Settings(), 2**30, 64, 2), 1.0)
    assert documented_causes("clip_requests_refused_total") == {*budget.used(), "too_large", "late"}
