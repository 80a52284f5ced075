"""Weaviate's requests where the memory for bodies is full."""

import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

from tests.support.server import ROOT
from tests.support.weaviate_client import GoClient
from tests.support.weaviate_load import Load, different, large_photo

PHOTOS = 40
MIB = 2**20


def test_photos_wait_for_room_and_searches_pass_them(serve: Callable[..., str]) -> None:
    """A few photos fit at a time; in order of arrival each search would come after all of them."""
    photo = large_photo()
    photos = [different(photo, number) for number in range(PHOTOS)]
    assert 1.2 * MIB < len(photos[0]) < 2 * MIB
    url = serve(ROOT / "demo/models", MAX_MEMORY="1", CLIENT_TIMEOUT="75")  # the least: 22 MiB for requests
    load, searcher, passed = Load(), GoClient(url), []
    searcher.vectorize(["a first search"], [])
    with ThreadPoolExecutor(PHOTOS) as pool:
        running = [pool.submit(load.send, lambda p=p: GoClient(url).vectorize([], [p])) for p in photos]
        load.wait_for(1)
        while wait(running, timeout=0).not_done:
            before = load.answered
            searcher.vectorize([f"search {before}"], [])
            passed.append(load.answered - before)
    assert (load.answered, load.lost) == (PHOTOS, {})
    assert statistics.median(passed) < PHOTOS / 5, "searches wait behind photos"
