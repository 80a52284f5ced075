"""Replicas that are replaced under Weaviate's requests: none may be lost."""

import time

import pytest

from tests.support.balancer import balancer
from tests.support.server import wait_for_ready
from tests.support.weaviate_client import GoClient
from tests.support.weaviate_load import load_of
from tests.support.weaviate_start import Start


@pytest.mark.parametrize("first", ["balancer", "SIGTERM"])
def test_a_replica_is_replaced_under_load(first: str, start: Start) -> None:
    """The balancer may know before SIGTERM, or only after it, as with Weaviate's Helm chart in a cluster."""
    env = {"KUBERNETES_SERVICE_HOST": "127.0.0.1"} if first == "SIGTERM" else {}
    old_port, old = start(**env)
    other_port, other = start(**env)
    for port, process in ((old_port, old), (other_port, other)):
        wait_for_ready(f"http://127.0.0.1:{port}", process)
    with balancer(old_port, other_port) as front, load_of(front.url, texts=12, photos=4) as load:
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
        assert old.wait(60) == 0
        wait_for_ready(f"http://127.0.0.1:{new_port}", new)
        front.ports = [other_port, new_port]
        load.wait_for(200)
    assert not load.lost, load.lost
    assert GoClient(f"http://127.0.0.1:{new_port}").ready().status == 204
