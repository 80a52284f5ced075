"""At the limit on open files new connections are closed; nothing crashes or spins, and it goes on once others end."""

import resource
import socket
import subprocess
import sys

import httpx
import pytest

from app.system import raise_open_files
from tests.support.load import wait_until
from tests.support.server import ROOT, environment_of, free_port, wait_for_ready


@pytest.mark.parametrize("workers", ["1", "2"])
def test_more_connections_than_open_files_harm_nobody_who_has_one(workers: str) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "app"]
    process = subprocess.Popen(
        command,
        env=environment_of(ROOT / "demo" / "models", PORT=str(port), WORKERS=workers),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)),
    )
    try:
        wait_for_ready(url, process)
        with httpx.Client() as kept:
            assert kept.get(f"{url}/.well-known/live").status_code == 204
            clients = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(800)]
            assert kept.get(f"{url}/.well-known/ready").status_code == 204
            assert kept.post(f"{url}/vectorize", json={"texts": ["a"]}).status_code == 200
            for client in clients:
                client.close()
            wait_until(lambda: answers(f"{url}/.well-known/ready"))
    finally:
        process.terminate()
        _, log = process.communicate(timeout=60)
    assert process.returncode == 0
    assert log.count("\n") < 100, log


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 204
    except httpx.TransportError:
        return False


def test_the_limit_is_raised_to_what_the_system_allows() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        raise_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= min(hard, 2**20) or hard == 256
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
