"""SIGTERM in the middle of load: what was accepted is answered, then exit status 0."""

import threading
import time
from pathlib import Path

import httpx

from tests.support.server import free_port, start_server, wait_for_ready


def test_sigterm_loses_nothing(tiny_models: Path) -> None:
    port = free_port()
    process = start_server(tiny_models, PORT=str(port))
    url = f"http://127.0.0.1:{port}"
    wait_for_ready(url)
    stopping = threading.Event()
    statuses: list[int] = []
    lost: list[str] = []
    ready_while_stopping: set[int] = set()

    def load(client: int) -> None:
        texts = [f"client {client} text {i} " + "word " * (i % 40) for i in range(300)]
        with httpx.Client(timeout=60) as http:
            while not stopping.is_set():
                try:
                    statuses.append(http.post(f"{url}/vectorize", json={"texts": texts}).status_code)
                except httpx.ConnectError:
                    return  # not accepted
                except httpx.TransportError as error:
                    lost.append(repr(error))

    threads = [threading.Thread(target=load, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(2)
    process.terminate()
    stopping.set()
    while process.poll() is None:
        try:
            ready_while_stopping.add(httpx.get(f"{url}/.well-known/ready", timeout=5).status_code)
        except httpx.TransportError:
            break
        time.sleep(0.02)
    for thread in threads:
        thread.join(60)
    assert process.wait(15) == 0
    assert not lost
    assert statuses.count(200) >= 8
    assert set(statuses) <= {200, 503}
    assert 503 in ready_while_stopping
