"""A real server on a real port."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from app.main import Lifecycle, create_app
from app.models import Model
from app.settings import Settings
from tests.tiny import clip_pair


def start_server(models: Path, **env: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "MODELS_DIR": str(models), "HOST": "127.0.0.1", **env}
    return subprocess.Popen([sys.executable, "-m", "app"], env=environment, stderr=subprocess.PIPE, text=True)


_PROCESSES: dict[str, subprocess.Popen[str]] = {}


def process_of(url: str) -> subprocess.Popen[str]:
    """The process of a server that the `serve` fixture started."""
    return _PROCESSES[url]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_for_ready(url: str, process: subprocess.Popen[str] | None = None) -> None:
    """Returns once the server is ready; fails as soon as its `process` has ended, with what it said."""
    for _ in range(1800):
        if process is not None and process.poll() is not None:
            raise AssertionError(process.stderr.read() if process.stderr else "ended")
        try:
            if httpx.get(f"{url}/.well-known/ready").status_code == 204:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError("not ready within 180 seconds")


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip_pair(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[..., str]]:
    """Starts a server and gives its address once it is ready."""
    running: list[subprocess.Popen[str]] = []

    def start(models: Path, **env: str) -> str:
        port = free_port()
        process = start_server(models, PORT=str(port), **env)
        running.append(process)
        url = f"http://127.0.0.1:{port}"
        _PROCESSES[url] = process
        wait_for_ready(url, process)
        return url

    yield start
    for process in running:
        process.terminate()
    for process in running:
        assert process.wait(20) == 0


@pytest.fixture(scope="session")
def offline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of a server that cannot connect anywhere but to this machine, and whose hub is not there."""
    folder = tmp_path_factory.mktemp("offline")
    (folder / "sitecustomize.py").write_text(
        "import socket\n"
        "def refuse(self, address, connect):\n"
        "    if self.family != socket.AF_UNIX and not str(address[0]).startswith(('127.', '::1')):\n"
        "        raise PermissionError(f'this test refuses a connection to {address}')\n"
        "    return connect(self, address)\n"
        "for name in ('connect', 'connect_ex'):\n"
        "    original = getattr(socket.socket, name)\n"
        "    setattr(socket.socket, name, lambda self, address, c=original: refuse(self, address, c))\n"
    )
    return {"PYTHONPATH": str(folder), "HF_ENDPOINT": "http://127.0.0.1:9"}


@pytest.fixture(scope="session", params=["openvino", "torch"])
def server(request: pytest.FixtureRequest, serve: Callable[..., str], tiny_models: Path) -> str:
    return serve(tiny_models, ENGINE=request.param)


class RunningApp:
    """An app served by uvicorn on a free port, in a thread of this process."""

    def __init__(self, app: FastAPI) -> None:
        self.failures: list[str] = []
        self.lifecycle: Lifecycle = app.state.lifecycle
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="critical"))
        self._thread = threading.Thread(target=self._server.run)

    def __enter__(self) -> Self:
        self._thread.start()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/.well-known/ready").status_code == 204:
                    return self
            time.sleep(0.02)
        raise AssertionError("not ready")

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()

    def metric(self, name: str) -> float:
        """The sum of a counter over its labels."""
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


@pytest.fixture
def run_app() -> Iterator[Callable[..., RunningApp]]:
    """Serves create_app(Settings(**settings), load) in this process."""
    with contextlib.ExitStack() as stack:

        def run(load: Callable[[Settings], Model], **settings: Any) -> RunningApp:
            failures: list[str] = []
            app = create_app(Settings(**settings), load, lambda: failures.append("failed"))
            running = stack.enter_context(RunningApp(app))
            running.failures = failures
            return running

        yield run
