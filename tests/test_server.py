"""What happens to requests and connections when the server is told to stop."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.support.engine import FakeSession, fake_model
from tests.support.load import BATCH, wait_until
from tests.support.server import (
    ROOT,
    RunningApp,
    assert_in_time,
    environment_of,
    free_port,
    is_running,
    start_server,
    wait_for_port,
    wait_for_ready,
)

BODY = b'{"texts": ["a 7"]}'
HEAD = b"POST /vectorize HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(BODY)
REQUEST = HEAD + BODY


def connect(url: str) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 60)
    client.settimeout(60)
    return client


def read_all(client: socket.socket) -> bytes:
    """What comes until the server closes."""
    parts = []
    while part := client.recv(65536):
        parts.append(part)
    return b"".join(parts)


def unanswered(client: socket.socket) -> bool:
    """Whether the connection was closed without a byte."""
    try:
        return not client.recv(1)
    except ConnectionResetError:
        return True


def stop(running: RunningApp, sig: signal.Signals = signal.SIGTERM) -> None:
    running.server.handle_exit(sig, None)
    while not running.service.draining:
        time.sleep(0.01)


def refused(url: str) -> bool:
    try:
        connect(url).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_cluster_is_left_without_a_loss(tiny_models: Path) -> None:
    """Clients that open a connection for each request lose nothing until the port is closed."""
    port = free_port()
    process = start_server(tiny_models, PORT=str(port), KUBERNETES_SERVICE_HOST="10.0.0.1", DRAIN_DELAY="4")
    url = f"http://127.0.0.1:{port}"
    wait_for_ready(url)
    terminated = threading.Event()
    answers: list[httpx.Response] = []
    lost: list[str] = []

    def load(client: int) -> None:
        texts = [f"client {client} text {i} " + "word " * (i % 40) for i in range(100)]
        while not terminated.is_set() or time.monotonic() < at + 1:
            try:
                answers.append(httpx.post(f"{url}/vectorize", json={"texts": texts}, timeout=60))
            except httpx.TransportError as error:
                lost.append(repr(error))

    at = time.monotonic()
    threads = [threading.Thread(target=load, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    at = time.monotonic()
    terminated.set()
    process.terminate()
    time.sleep(0.5)
    ready = httpx.get(f"{url}/.well-known/ready")
    for thread in threads:
        thread.join(60)
    assert process.wait(60) == 0
    assert ready.status_code == 503 and ready.headers["connection"] == "close"
    assert not lost and {answer.status_code for answer in answers} == {200}
    assert answers[-1].headers["connection"] == "close"


def test_what_has_begun_is_answered_and_idle_connections_close_without_a_byte(
    run_app: Callable[..., RunningApp],
) -> None:
    running = run_app(fake_model(FakeSession()), **BATCH)
    kept, silent, half_a_body, half_a_head = (connect(running.url) for _ in range(4))
    kept.sendall(REQUEST)
    assert kept.recv(65536).startswith(b"HTTP/1.1 200")
    half_a_body.sendall(HEAD + BODY[:5])
    half_a_head.sendall(REQUEST[:20])
    time.sleep(0.2)
    stop(running)
    assert read_all(kept) == read_all(silent) == b""
    assert refused(running.url)
    half_a_body.sendall(BODY[5:])
    half_a_head.sendall(REQUEST[20:])
    for client in (half_a_body, half_a_head):
        answer = read_all(client)
        assert answer.startswith(b"HTTP/1.1 200") and b"connection: close" in answer
    running.wait_for_end()


def test_the_drain_delay_goes_on_as_before(run_app: Callable[..., RunningApp]) -> None:
    running = run_app(fake_model(FakeSession()), drain_delay=3, **BATCH)
    kept, late = connect(running.url), connect(running.url)
    stop(running)
    ready = httpx.get(f"{running.url}/.well-known/ready")
    assert ready.status_code == 503 and "shutting down" in ready.json()["error"]
    for client in (kept, connect(running.url)):
        client.sendall(REQUEST)
        answer = read_all(client)
        assert answer.startswith(b"HTTP/1.1 200") and b"connection: close" in answer
    assert read_all(late) == b""
    running.wait_for_end()


def test_interrupted_by_hand_it_does_not_wait(run_app: Callable[..., RunningApp]) -> None:
    running = run_app(fake_model(FakeSession()), drain_delay=600, **BATCH)
    stop(running, signal.SIGINT)
    running.wait_for_end()


def test_a_second_signal_ends_it_at_once(
    run_app: Callable[..., RunningApp], caplog: pytest.LogCaptureFixture
) -> None:
    running = run_app(fake_model(FakeSession()), drain_delay=600, **BATCH)
    client = connect(running.url)
    client.sendall(HEAD)
    stop(running)
    stop(running)
    running.wait_for_end()
    assert unanswered(client)
    assert "connections closed without an answer: 1 (a second signal came)" in caplog.text


def test_the_grace_period_is_the_longest(
    run_app: Callable[..., RunningApp], caplog: pytest.LogCaptureFixture
) -> None:
    running = run_app(fake_model(FakeSession()), grace_period=0.5, **BATCH)
    client = connect(running.url)
    client.sendall(HEAD)
    time.sleep(0.1)
    stop(running)
    running.wait_for_end()
    assert unanswered(client)
    assert "connections closed without an answer: 1 (GRACE_PERIOD is over)" in caplog.text


def descendants(pid: int) -> list[int]:
    """Processes that a process has started, and theirs."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread ends meanwhile
            for child in map(int, task.read_text().split()):
                found += [child, *descendants(child)]
    return found


# What can be seen of a start from outside, in order; "" is as soon as the port is open, while the rest is imported.
MOMENTS = {
    "imports": "",
    "compiles": "compiled/.making-*",
    "has compiled a tower": "compiled/.making-*/image.bin",
    "opens and measures": "compiled/[!.]*/manifest.json",
}


@pytest.mark.parametrize("first_process", [False, True], ids=["", "as a container's first process"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_stop_while_it_starts_takes_two_seconds(
    tiny_models: Path, tmp_path: Path, moment: str, first_process: bool
) -> None:
    """With status 0; no process goes on, nothing half made is left, and who waits sees the connection close."""

    def attempt(number: int) -> float:
        return stopped_while_it_starts(tiny_models, tmp_path / f"models-{number}", moment, first_process)

    assert_in_time(2, attempt)


def stopped_while_it_starts(tiny_models: Path, models: Path, moment: str, first_process: bool) -> float:
    """How many seconds the stop took."""
    port = free_port()
    models.mkdir()
    for name in ("clip", "text"):
        (models / name).symlink_to(tiny_models / name)
    command = [sys.executable, "-m", "app"]
    if first_process:
        # To a process with the number 1 the kernel passes only signals that it handles.
        command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *command]
        if subprocess.run([*command[:-3], "true"], capture_output=True).returncode:
            pytest.skip("a namespace of processes needs root")
    environment = environment_of(models, PORT=str(port), ENGINE="openvino")
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    wait_for_port(f"http://127.0.0.1:{port}")
    client = connect(f"http://127.0.0.1:{port}")
    client.sendall(REQUEST)
    deadline = time.monotonic() + 120
    while MOMENTS[moment] and not list(models.glob(MOMENTS[moment])):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    children = descendants(process.pid)
    started = time.monotonic()
    os.kill(children[0] if first_process else process.pid, signal.SIGTERM)
    assert process.wait(60) == 0
    seconds = time.monotonic() - started
    assert unanswered(client) or moment == "opens and measures"  # it may be ready by then
    wait_until(lambda: not any(map(is_running, children)))
    assert not list(models.glob("compiled/.making*"))
    return seconds


def test_a_signal_during_the_imports_ends_it() -> None:
    """As a container's first process too: the handler is there before anything is imported."""
    program = (
        "import os, runpy, signal, sys\n"
        "wanted = sys.argv.pop()\n"
        "class Kill:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == wanted:\n"
        "            os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.meta_path.insert(0, Kill())\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"  # as the kernel does for a container's first process
        "runpy.run_module('app', run_name='__main__', alter_sys=True)\n"
    )
    for module in ("app.errors", "pydantic", "app.settings", "app.sockets", "uvicorn", "app.server", "numpy"):
        environment = {**os.environ, "PORT": str(free_port()), "MODELS_DIR": "demo/models"}
        command = [sys.executable, "-c", program, module]
        result = subprocess.run(command, env=environment, cwd=ROOT, timeout=60, capture_output=True, text=True)
        log = [line for line in result.stderr.splitlines() if "listening on" not in line]
        assert (result.returncode, log) == (0, []), module


def test_decoders_at_work_do_not_keep_the_server_nor_outlive_it(tiny_models: Path) -> None:
    port = free_port()
    process = start_server(
        tiny_models, measured=True, PORT=str(port), DECODE_TIMEOUT="120", GRACE_PERIOD="1", THREADS="2"
    )
    url = f"http://127.0.0.1:{port}"
    wait_for_ready(url)
    body = (ROOT / "tests" / "cases" / "ccitt_request.json").read_bytes()

    def send() -> None:
        with contextlib.suppress(httpx.TransportError):
            httpx.post(f"{url}/vectorize", content=body, timeout=100)

    def decoders() -> list[int]:
        threads = Path(f"/proc/{process.pid}/task").glob("*/children")
        return [int(pid) for each in threads for pid in each.read_text().split()]

    client = threading.Thread(target=send)
    client.start()
    wait_until(lambda: len(decoders()) == 1)
    (decoder,) = decoders()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0  # long before the decoder would have ended
    client.join()
    wait_until(lambda: not is_running(decoder))
