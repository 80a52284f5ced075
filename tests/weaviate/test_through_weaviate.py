"""benchmarks/through_weaviate.py, against the stand-in."""

import os
import subprocess
import sys

import pytest

from tests.support.server import ROOT, free_port
from tests.support.weaviate_standin import Standin


def run_benchmark(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.through_weaviate", *arguments],
        env={**os.environ, **env},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_every_way_of_the_client_is_measured(standin: Standin) -> None:
    result = run_benchmark("--pictures", "6", "--texts", "12", env=standin.env)
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr
    rows = [line.split() for line in result.stdout.splitlines()[1:]]
    assert [row[:2] for row in rows] == [
        [kind, way]
        for kind in ("pictures", "texts")
        for way in ("insert", "insert_many", "fixed_size", "dynamic", "stream")
    ]
    for *_, rate, failed, p50, _, p99, _, searches_failed in rows:
        assert float(rate) > 0
        assert 0 < float(p50) <= float(p99)
        assert (failed, searches_failed) == ("0", "0")
    assert not standin.store.classes, "collections are left"


def test_containers_are_compared_and_failures_counted(standin: Standin, container: str) -> None:
    ways = "--ways", "insert", "insert_many", "fixed_size", "stream"
    nobody = f"http://127.0.0.1:{free_port()}"
    standin.store.fault = lambda properties: "no" if properties.get("name", "").endswith(" 0003") else None
    result = run_benchmark(
        "--pictures", "0", "--texts", "8", *ways, "--container", container, "--container", nobody, env=standin.env
    )
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()[1:]]
    assert [(row[0], row[2], row[4]) for row in rows] == [
        (url, way, failed) for way in ways[1:] for url, failed in ((container, "1"), (nobody, "8"))
    ]
    assert all(row[-1] != "0" for row in rows if row[0] == nobody), "failed searches are not counted"


@pytest.mark.parametrize("url", ["", "http://127.0.0.1:9"])
def test_without_a_weaviate_it_says_so(url: str) -> None:
    result = run_benchmark(env={"WEAVIATE_URL": url})
    assert result.returncode == 1
    assert "WEAVIATE_URL" in result.stderr
    assert "Traceback" not in result.stderr
