"""A real server on a real port."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.tiny import clip_pair


def start_server(models: Path, **env: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "MODELS_DIR": str(models), "HOST": "127.0.0.1", **env}
    return subprocess.Popen([sys.executable, "-m", "app"], env=environment, stderr=subprocess.PIPE, text=True)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


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
        for _ in range(600):
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            try:
                if httpx.get(f"{url}/.well-known/ready", timeout=2).status_code == 204:
                    return url
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise AssertionError("not ready within a minute")

    yield start
    for process in running:
        process.terminate()
    for process in running:
        assert process.wait(20) == 0


@pytest.fixture(scope="session")
def server(serve: Callable[..., str], tiny_models: Path) -> str:
    return serve(tiny_models)
