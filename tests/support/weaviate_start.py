"""A server that is started as Weaviate sees it start."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.server import free_port, start_server
from tests.support.weaviate_client import GoClient, Poll

# Starts a server with the variables named; its port and process.
Start = Callable[..., tuple[int, subprocess.Popen[str]]]


@dataclass(frozen=True)
class Started:
    """A server, what each poll of its start said, and clients with a connection that is idle since a moment."""

    url: str
    polls: list[Poll]
    idle: list[GoClient]
    idle_since: float


@contextmanager
def started(models: Path) -> Iterator[Started]:
    """Polled from before it listens until it is ready; in a fresh checkout it compiles first."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    process = start_server(models, PORT=str(port))
    try:
        polls = GoClient(url).wait_for_startup(interval=0.05)
        idle = [GoClient(url) for _ in range(3)]
        for client in idle:
            client.vectorize(["one"], [])
        yield Started(url, polls, idle, time.monotonic())
    finally:
        process.terminate()
        assert process.wait(60) == 0
