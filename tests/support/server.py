"""A real server on a real port, as a process or in this one."""

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import httpx
from fastapi import FastAPI

from app.server import KEEP_ALIVE_SECONDS, make_server
from app.serving.service import Service
from app.sockets import listen, shown
from tests.support.warm_python import warm_python

ROOT = Path(__file__).resolve().parents[2]


def environment_of(models: Path, **env: str) -> dict[str, str]:
    """The environment of a server on this machine alone."""
    return {**os.environ, "MODELS_DIR": str(models), "HOST": "127.0.0.1", **env}


def start_server(models: Path, *, measured: bool = False, workers: int = 1, **env: str) -> subprocess.Popen[str]:
    """A server of so many front processes; where torch has to be loaded, by a Python that has loaded it.

    Unless the server is to be `measured`: then the process is the server's own, and nothing is in it that it did not
    load itself.
    """
    loads_torch = env.get("ENGINE") == "torch" or not any(models.glob("compiled/*/manifest.json"))
    command = [warm_python() if loads_torch and not measured else sys.executable, "-m", "app"]
    environment = environment_of(models, **{"WORKERS": str(workers), **env})
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, cwd=ROOT)


_PORTS = range(10_000, 30_000)
_ports = itertools.islice(itertools.cycle(_PORTS), os.getpid() * 4099 % len(_PORTS), None)


def is_running(pid: int) -> bool:
    """Whether a process has not ended; one that nobody has waited for yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def assert_in_time(longest: float, attempt: Callable[[int], float]) -> None:
    """One of three attempts, which say how many seconds they took, has to be in time.

    Where other programs take the cores everything takes as much longer.
    """
    taken: list[float] = []
    for number in range(3):
        taken.append(attempt(number))
        if taken[-1] < longest * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)):
            return
    raise AssertionError(f"not within {longest:g} s: {taken}")


PROCESSES: dict[str, subprocess.Popen[str]] = {}


def process_of(url: str) -> subprocess.Popen[str]:
    """The process of a server that the `serve` fixture started to be measured."""
    return PROCESSES[url]


def free_port() -> int:
    """A port that nobody takes meanwhile: below those that the kernel gives, and another one at each call.

    Processes that test side by side start at different ones.
    """
    for port in _ports:
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def wait_for_ready(url: str, process: subprocess.Popen[str] | None = None) -> None:
    """Returns once the server is ready; fails as soon as its `process` has ended, with what it said."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        if process is not None and process.poll() is not None:
            raise AssertionError(process.stderr.read() if process.stderr else "ended")
        try:
            if httpx.get(f"{url}/.well-known/ready").status_code == 204:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.03)
    raise AssertionError("not ready within 180 seconds")


def wait_for_port(url: str) -> None:
    """Returns once somebody listens."""
    host, port = url.removeprefix("http://").rsplit(":", 1)
    for _ in range(9000):
        with contextlib.suppress(OSError):
            socket.create_connection((host, int(port)), 1).close()
            return
        time.sleep(0.01)
    raise AssertionError("nobody listens within 90 seconds")


class RunningApp:
    """An app served by uvicorn on a free port, in a thread of this process."""

    def __init__(self, app: FastAPI, keep_alive: int = KEEP_ALIVE_SECONDS) -> None:
        self.failures: list[str] = []
        self.service: Service = app.state.service
        sockets = listen("127.0.0.1", 0)
        self.url = f"http://{shown(sockets[0])}"
        self.server = make_server(app)
        self.server.config.timeout_keep_alive = keep_alive
        self._thread = threading.Thread(target=self.server.run, args=(sockets,))

    @contextlib.contextmanager
    def served(self) -> Iterator[None]:
        """On its port, whether ready or not."""
        self._thread.start()
        wait_for_port(self.url)
        try:
            yield
        finally:
            self.__exit__()

    def __enter__(self) -> Self:
        self._thread.start()
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/.well-known/ready").status_code == 204:
                    return self
            time.sleep(0.02)
        raise AssertionError("not ready")

    def __exit__(self, *_: object) -> None:
        self.server.handle_exit(signal.SIGINT, None)
        self.wait_for_end()

    def wait_for_end(self, seconds: float = 25) -> None:
        """Returns once the server has ended, sooner than GRACE_PERIOD would end it."""
        self._thread.join(seconds)
        assert not self._thread.is_alive()

    def used(self) -> dict[str, int]:
        """What is taken of the budget."""
        assert self.service.current is not None
        return self.service.current.budget.used()

    def metric(self, name: str) -> float:
        """The sum of a counter over its labels."""
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))
