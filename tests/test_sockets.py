"""Near the limit on open files the connections that have been idle longest make room for new ones."""

import resource
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import httpx

from app.sockets import ConnectionLimit, raise_open_files
from tests.support.server import ROOT, environment_of, free_port, wait_for_ready


def test_silent_connections_keep_nobody_out(tiny_models: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "app"]
    process = subprocess.Popen(
        command,
        env=environment_of(tiny_models, PORT=str(port)),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)),
    )
    try:
        wait_for_ready(url, process)
        with httpx.Client() as kept:
            clients = []
            for n in range(600):
                clients.append(socket.create_connection(("127.0.0.1", port), 10))
                if n % 20 == 0:
                    assert kept.get(f"{url}/.well-known/live").status_code == 204
                    assert httpx.get(f"{url}/.well-known/ready").status_code == 204
            assert httpx.post(f"{url}/vectorize", json={"texts": ["a"]}).status_code == 200
        for client in clients:
            client.close()
    finally:
        process.terminate()
        _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    assert log.count("open files") == 1, log


def test_those_that_work_are_left_alone() -> None:
    closed: list[int] = []

    def connection(n: int) -> SimpleNamespace:
        transport = SimpleNamespace(abort=lambda: closed.append(n))
        return SimpleNamespace(idle_since=None if n % 2 else -float(n), transport=transport)

    connections = [connection(n) for n in range(1000)]
    room = ConnectionLimit(900)
    room.before_another(connections[:100])
    assert not closed
    room.before_another(connections)
    assert closed == list(range(998, 998 - 2 * len(closed), -2)) and closed


def test_the_limit_is_raised_to_what_the_system_allows() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        assert raise_open_files() == resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= min(hard, 2**20) or hard == 256
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
