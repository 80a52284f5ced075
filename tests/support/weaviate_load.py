"""Many of Weaviate's requests at the same time, and what became of them."""

import base64
import collections
import contextlib
import io
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from tests.support.weaviate_client import GoClient, ModuleError


class Load:
    """How many requests were answered, and which were lost and why."""

    def __init__(self) -> None:
        self.answered = 0
        self.lost: collections.Counter[str] = collections.Counter()
        self._changed = threading.Condition()

    def send(self, call: Callable[[], object]) -> None:
        try:
            call()
        except ModuleError as error:
            with self._changed:
                self.lost[str(error)] += 1
                self._changed.notify_all()
        else:
            with self._changed:
                self.answered += 1
                self._changed.notify_all()

    def wait_for(self, more: int, seconds: float = 60) -> None:
        """Until so many more requests have ended."""
        with self._changed:
            until = self._ended() + more
            assert self._changed.wait_for(lambda: self._ended() >= until, seconds), "requests hang"

    def _ended(self) -> int:
        return self.answered + self.lost.total()


@contextlib.contextmanager
def load_of(url: str, texts: int, photos: int) -> Iterator[Load]:
    """So many clients, each with its own connections, send one text or photo after another until the block ends."""
    load, done, numbers = Load(), threading.Event(), itertools.count()
    photo = large_photo(800)

    def run(send: Callable[[GoClient, int], object]) -> None:
        client = GoClient(url)
        while not done.is_set():
            load.send(lambda: send(client, next(numbers)))

    def text(client: GoClient, number: int) -> None:
        client.vectorize([f"text {number}"], [])

    def picture(client: GoClient, number: int) -> None:
        client.vectorize([], [different(photo, number)])

    with ThreadPoolExecutor(texts + photos) as pool:
        runs = [pool.submit(run, text) for _ in range(texts)] + [pool.submit(run, picture) for _ in range(photos)]
        try:
            yield load
        finally:
            done.set()
    for each in runs:
        each.result()


def large_photo(width: int = 1600) -> bytes:
    """A JPEG that is hard to compress: 1.1 MB with the width of 1600."""
    buffer, height = io.BytesIO(), width * 3 // 4
    Image.frombytes("RGB", (width, height), os.urandom(width * height * 3)).save(buffer, "JPEG")
    return buffer.getvalue()


def different(photo: bytes, number: int) -> str:
    """The photo as base64; bytes after its end make it another input."""
    return base64.b64encode(photo + number.to_bytes(6)).decode()
