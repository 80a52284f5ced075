"""Many of Weaviate's requests at the same time, and what became of them."""

import collections
import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

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
def load_of_texts(url: str, clients: int) -> Iterator[Load]:
    """So many clients, each with connections of its own, send one text after another until the block ends."""
    load, done, numbers = Load(), threading.Event(), itertools.count()

    def run() -> None:
        client = GoClient(url)
        while not done.is_set():
            load.send(lambda: client.vectorize([f"text {next(numbers)}"], []))

    with ThreadPoolExecutor(clients) as pool:
        runs = [pool.submit(run) for _ in range(clients)]
        try:
            yield load
        finally:
            done.set()
    for each in runs:
        each.result()
