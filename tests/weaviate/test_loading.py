"""Weaviate's requests while the model is being loaded."""

import time
from concurrent.futures import ThreadPoolExecutor

from tests.support.weaviate_client import GoClient
from tests.support.weaviate_load import Load
from tests.support.weaviate_start import Start


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
