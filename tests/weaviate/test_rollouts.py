"""Replicas that are replaced, and starts, under Weaviate's requests: none may be lost."""

import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.balancer import balancer
from tests.support.server import ROOT, free_port, start_server, wait_for_ready
from tests.support.weaviate_client import GoClient
from tests.support.weaviate_load import Load, load_of_texts

Start = Callable[..., tuple[int, subprocess.Popen[str]]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a server with the demo model; its port and process."""
    processes: list[subprocess.Popen[str]] = []

    def start(**env: str) -> tuple[int, subprocess.Popen[str]]:
        processes.append(start_server(ROOT / "demo/models", PORT=str(port := free_port()), **env))
        return port, processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize("first", ["balancer", "SIGTERM"])
def test_a_replica_is_replaced_under_load(first: str, start: Start) -> None:
    """The balancer may know before SIGTERM, or only after it, as with Weaviate's Helm chart in a cluster."""
    env = {"KUBERNETES_SERVICE_HOST": "127.0.0.1"} if first == "SIGTERM" else {}
    old_port, old = start(**env)
    other_port, other = start(**env)
    for port, process in ((old_port, old), (other_port, other)):
        wait_for_ready(f"http://127.0.0.1:{port}", process)
    with balancer(old_port, other_port) as front, load_of_texts(front.url, clients=16) as load:
        load.wait_for(200)
        if first == "balancer":
            front.ports = [other_port]
            load.wait_for(100)
            old.terminate()
        else:
            old.terminate()
            time.sleep(1)  # the time that a cluster takes to tell its balancers
            front.ports = [other_port]
        new_port, new = start(**env)
        assert old.wait(40) == 0
        wait_for_ready(f"http://127.0.0.1:{new_port}", new)
        front.ports = [other_port, new_port]
        load.wait_for(200)
    assert not load.lost, load.lost
    assert GoClient(f"http://127.0.0.1:{new_port}").ready().status == 204


def test_requests_while_loading_wait(start: Start) -> None:
    port, process = start()
    url = f"http://127.0.0.1:{port}"
    while (poll := GoClient(url).ready()).status is None:
        assert process.poll() is None
        time.sleep(0.01)
    assert poll.status == 503, "it was ready before the first request"
    load = Load()
    with ThreadPoolExecutor(40) as pool:
        for number in range(40):
            pool.submit(load.send, lambda number=number: GoClient(url).vectorize([f"text {number}"], []))
    assert (load.answered, load.lost) == (40, {})
    assert GoClient(url).ready().status == 204
