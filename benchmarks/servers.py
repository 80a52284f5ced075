"""Servers to measure, each a process of its own."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def server(module: str, models: Path, env: dict[str, str]) -> Iterator[tuple[int, int, float]]:
    """A server as a process of its own: port, process id, seconds from start to ready."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    environment = {
        **os.environ,
        "MODELS_DIR": str(models),
        "PORT": str(port),
        "HOST": "127.0.0.1",
        "VECTOR_CACHE_BYTES": "0",
        **env,
    }
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", module], env=environment, stderr=subprocess.DEVNULL)
    try:
        while not is_ready(port):
            if process.poll() is not None or time.monotonic() > started + 300:
                raise RuntimeError(f"{module} did not become ready")
            time.sleep(0.02)
        yield port, process.pid, time.monotonic() - started
    finally:
        process.terminate()
        process.wait(60)


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/.well-known/ready", timeout=5) as answer:
            return bool(answer.status == 204)
    except (urllib.error.URLError, OSError):
        return False


def processes(pid: int) -> list[int]:
    """A server's process, and those that it started to serve: without those that decode, which come and go."""
    found = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread, or a process, has ended meanwhile
            for child in map(int, children.read_text(encoding="ascii").split()):
                if b"app.processors.worker" not in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(child)
    return found


def fronts(pid: int) -> list[int]:
    """The front processes of a server, which are forks of it."""
    command = Path(f"/proc/{pid}/cmdline").read_bytes()
    return [each for each in processes(pid)[1:] if Path(f"/proc/{each}/cmdline").read_bytes() == command]


def ports_of_clients(pid: int) -> set[int]:
    """The ports at the other end of a process's connections over IPv4."""
    files = {os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir()}
    lines = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    return {int(line[2].partition(":")[2], 16) for line in lines if f"socket:[{line[9]}]" in files}


def memory(pid: int) -> dict[str, float]:
    """Resident memory of a server's processes in MB: all, and its anonymous part; what they share counts for each."""
    kb: Counter[str] = Counter()
    for process in processes(pid):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            for line in Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines():
                if line.startswith("Rss"):
                    name, value, _ = line.split()
                    kb[name] += int(value)
    return {"rss_mb": kb.total() / 1024, "rss_anon_mb": kb["RssAnon:"] / 1024}
