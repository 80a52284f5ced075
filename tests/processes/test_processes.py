"""A server of several processes: what each client sees when one of them ends, at any moment."""

import base64
import contextlib
import io
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from PIL import Image

from benchmarks.servers import ports_of_clients
from tests.support.load import wait_until
from tests.support.server import (
    ROOT,
    assert_in_time,
    environment_of,
    free_port,
    is_running,
    start_server,
    wait_for_port,
    wait_for_ready,
)

DEMO = ROOT / "demo" / "models"


def children(process: int) -> list[int]:
    """The processes that a process started and that still run."""
    found = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="utf-8").split()
    return [int(each) for each in found]


def is_device(process: int) -> bool:
    with contextlib.suppress(OSError):  # it has ended
        return b"app.processes.device" in Path(f"/proc/{process}/cmdline").read_bytes()
    return False


class Server:
    """A server of the demo model, in processes of its own."""

    def __init__(self, workers: int = 3, module: str | None = None, **env: str) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.port = port
        if module is None:
            self.process = start_server(DEMO, measured=True, workers=workers, PORT=str(port), **env)
        else:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module],
                env=environment_of(DEMO, PORT=str(port), **env),
                stderr=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )

    def fronts(self) -> list[int]:
        return [each for each in children(self.process.pid) if not is_device(each)]

    def devices(self) -> list[int]:
        return [each for each in children(self.process.pid) if is_device(each)]

    def metric(self, name: str) -> float:
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    def end(self) -> str:
        """End it, and return its log."""
        self.process.terminate()
        _, log = self.process.communicate(timeout=25)
        return log


@pytest.fixture
def server() -> Iterator[Server]:
    with started() as made:
        yield made


@contextlib.contextmanager
def started(*args: object, **env: str) -> Iterator[Server]:
    made = Server(*args, **env)  # type: ignore[arg-type]
    try:
        wait_for_ready(made.url, made.process)
        yield made
    finally:
        if made.process.poll() is None:
            made.process.kill()
        made.process.communicate()


def picture(seed: int, width: int = 320) -> str:
    pixels = random.Random(seed).randbytes(width * 240 * 3)
    buffer = io.BytesIO()
    Image.frombytes("RGB", (width, 240), pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_connections_spread_over_the_fronts() -> None:
    with started(4) as server, contextlib.ExitStack() as stack:
        wait_until(lambda: len(server.fronts()) == 4 and server.metric("clip_fronts") == 4)

        clients = [stack.enter_context(httpx.Client()) for _ in range(32)]
        for client in clients:
            assert client.get(f"{server.url}/.well-known/live").status_code == 204
        # Those of wait_until() may be closed only now.
        wait_until(lambda: sum(connections_of(server)) == 32)
        assert max(connections_of(server)) <= 9


def test_connections_that_a_front_has_not_taken_when_it_ends_go_to_another(server: Server) -> None:
    wait_until(lambda: server.metric("clip_fronts") == 3)
    front = server.fronts()[0]
    os.kill(front, signal.SIGSTOP)
    with ThreadPoolExecutor(12) as pool:
        body = {"texts": ["nobody is lost"]}
        answers = [pool.submit(httpx.post, f"{server.url}/vectorize", json=body, timeout=60) for _ in range(12)]
        time.sleep(0.5)
        assert not all(answer.done() for answer in answers)
        os.kill(front, signal.SIGKILL)
        assert [answer.result().status_code for answer in answers] == [200] * 12


def test_connections_that_moved_to_another_front_end_when_it_ends_them(server: Server) -> None:
    """The front that is started meanwhile has no copy that would keep them open."""
    wait_until(lambda: server.metric("clip_fronts") == 3)
    front = server.fronts()[0]
    os.kill(front, signal.SIGSTOP)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 60)) for _ in range(12)]
        for client in clients:
            client.sendall(b"GET /.well-known/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        time.sleep(0.5)
        os.kill(front, signal.SIGKILL)
        for client in clients:
            assert b" 204 " in client.recv(1000)
            assert client.recv(1000) == b""


def connections_of(server: Server) -> list[int]:
    """How many connections of clients each front process has."""
    return [len(ports_of_clients(front)) for front in server.fronts()]


def test_the_same_input_is_computed_once_on_whichever_fronts_it_arrives(server: Server) -> None:
    wait_until(lambda: server.metric("clip_fronts") == 3)
    body = {"images": [picture(1)], "texts": ["the same words"]}
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: httpx.post(f"{server.url}/vectorize", json=body, timeout=60), range(12)))
    assert {answer.text for answer in answers if answer.status_code != 200} == set()
    assert len({answer.content for answer in answers}) == 1
    for kind in ("texts", "images"):
        assert server.metric(f'clip_batch_items_sum{{kind="{kind}"}}') == 1
        names = [f'clip_items{word}_total{{kind="{kind}"}}' for word in ("", "_joined", "_cached")]
        assert sum(server.metric(name) for name in names) == 12


def test_any_front_answers_for_all(server: Server) -> None:
    for number in range(12):
        answer = httpx.post(f"{server.url}/vectorize", json={"texts": [f"text {number}"]})
        assert answer.status_code == 200
    for _ in range(6):
        assert server.metric("clip_items_total") == 12
        assert server.metric("clip_responses_total") == 12
        assert server.metric("process_resident_memory_bytes") > 100e6
    assert len({httpx.get(f"{server.url}/meta").content for _ in range(6)}) == 1


def fronts_and_replaced(server: Server) -> tuple[float, float] | None:
    """None if the front that was asked is the one that was killed."""
    try:
        return server.metric("clip_fronts"), server.metric("clip_fronts_replaced_total")
    except httpx.TransportError:
        return None


def test_a_front_that_is_killed_is_replaced_and_nobody_else_notices(server: Server) -> None:
    expected = {
        text: httpx.post(f"{server.url}/vectorize", json={"texts": [text]}).json() for text in map(str, range(50))
    }
    broken: list[str] = []
    over = threading.Event()

    def ask_for_long(seed: int) -> int:
        answered, choice = 0, random.Random(seed)
        while not over.is_set():
            with httpx.Client(timeout=60) as client, contextlib.suppress(httpx.TransportError):
                for _ in range(20):
                    text = str(choice.randrange(50))
                    pictures = [picture(choice.randrange(10**6))] if choice.random() < 0.3 else []
                    answer = client.post(f"{server.url}/vectorize", json={"texts": [text], "images": pictures})
                    if answer.status_code != 200 or answer.json()["textVectors"] != expected[text]["textVectors"]:
                        broken.append(answer.text)
                    answered += 1
                    if over.is_set():
                        break
        return answered

    with ThreadPoolExecutor(9) as pool:
        running = [pool.submit(ask_for_long, seed) for seed in range(8)]
        try:
            for number in range(1, 6):
                os.kill(random.choice(server.fronts()), signal.SIGKILL)
                wait_until(lambda number=number: fronts_and_replaced(server) == (3, number))  # type: ignore[misc]
                time.sleep(0.3)
        finally:
            over.set()
        assert sum(each.result() for each in running) > 50
    assert broken == []
    assert server.metric("clip_items_waiting") == 0
    httpx.get(f"{server.url}/.well-known/ready").raise_for_status()


def test_a_request_of_a_killed_front_ends_without_a_byte(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"POST /vectorize HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n{")
        time.sleep(0.3)
        for front in server.fronts():
            os.kill(front, signal.SIGKILL)
        client.settimeout(60)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(100) == b""
    wait_for_ready(server.url, server.process)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
def test_a_device_that_ends_ends_the_server_and_every_client_is_told(server: Server, how: signal.Signals) -> None:
    device = server.devices()[0]
    os.kill(device, signal.SIGSTOP)  # so that requests are under way

    def ask(number: int) -> int:
        try:
            return httpx.post(f"{server.url}/vectorize", json={"texts": [f"waits {number}"]}, timeout=60).status_code
        except httpx.RemoteProtocolError:
            return 0

    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(ask, number) for number in range(6)]
        time.sleep(0.5)
        os.kill(device, how)
        os.kill(device, signal.SIGCONT)
        assert {answer.result() for answer in answers} <= {503, 0}
    _, log = server.process.communicate(timeout=60)
    assert server.process.returncode == 1
    assert log.count("CRITICAL") == 1 and f"the device process was ended by {how.name}" in log


def test_a_supervisor_that_is_killed_leaves_nothing_behind(server: Server) -> None:
    others = children(server.process.pid)
    assert len(others) == 4
    server.process.kill()
    wait_until(lambda: not any(map(is_running, others)))
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", server.port))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("delay", [0.05, 0.3, 0.6, 0.9, 1.5])
def test_a_signal_while_it_starts_ends_all_at_once(number: signal.Signals, delay: float) -> None:
    def stop(_: int) -> float:
        server = Server()
        try:
            wait_for_port(server.url)
            time.sleep(delay)
            others = children(server.process.pid)
            asked = time.monotonic()
            server.process.send_signal(number)
            assert server.process.wait(25) == 0
            wait_until(lambda: not any(map(is_running, others)))
            return time.monotonic() - asked
        finally:
            server.process.kill()
            server.process.communicate()

    assert_in_time(4, stop)


@pytest.mark.parametrize("delay", [0.1, 0.4, 0.7, 1.0])
def test_whatever_dies_while_it_starts_no_client_waits_for_ever(delay: float) -> None:
    for victim in ("front", "device"):
        server = Server()
        try:
            wait_for_port(server.url)
            with ThreadPoolExecutor(1) as pool:
                answer = pool.submit(httpx.post, f"{server.url}/vectorize", json={"texts": ["early"]}, timeout=60)
                time.sleep(delay)
                victims = server.fronts if victim == "front" else server.devices
                wait_until(lambda find=victims: bool(find()))  # type: ignore[misc]
                for each in victims():
                    os.kill(each, signal.SIGKILL)
                try:
                    status = answer.result().status_code
                except httpx.TransportError:
                    status = 0
            if victim == "front":
                assert status in (0, 200)
                wait_for_ready(server.url, server.process)
            else:
                assert status in (0, 200, 503)
                assert server.process.wait(60) == 1
        finally:
            server.process.kill()
            server.process.communicate()


def test_fronts_that_never_answer_end_the_server() -> None:
    server = Server()
    try:
        wait_until(lambda: bool(server.devices()))
        while server.process.poll() is None:
            for front in server.fronts():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(front, signal.SIGKILL)
        assert server.process.returncode == 1
        assert "5 front processes ended before they could answer" in server.end()
    finally:
        server.process.kill()
        server.process.communicate()


def test_draining_answers_what_has_begun(server: Server) -> None:
    def ask(seed: int) -> int:
        lost, choice = 0, random.Random(seed)
        with httpx.Client(timeout=60) as client:
            while True:
                try:
                    answer = client.post(
                        f"{server.url}/vectorize",
                        json={"texts": [f"drain {choice.random()}"], "images": [picture(choice.randrange(10**6))]},
                    )
                except httpx.ConnectError:
                    return lost
                except (httpx.RemoteProtocolError, httpx.ReadError) as error:
                    # A kept connection that closes before a byte is one that a client uses again elsewhere.
                    assert "without sending" in str(error) or not str(error) or "reset" in str(error)
                    continue
                lost += answer.status_code != 200

    with ThreadPoolExecutor(6) as pool:
        clients = [pool.submit(ask, seed) for seed in range(6)]
        time.sleep(1)
        server.process.terminate()
        assert [client.result() for client in clients] == [0] * 6
    assert server.process.wait(25) == 0


def test_one_of_two_devices_ends_and_the_other_goes_on() -> None:
    with started(2, "tests.processes.two_devices", VECTOR_CACHE_BYTES="0") as server:
        wait_until(lambda: len(server.devices()) == 2 and server.metric("clip_fronts") == 2)
        texts = [f"text {number}" for number in range(200)]
        wanted = httpx.post(f"{server.url}/vectorize", json={"texts": texts}, timeout=60).json()["textVectors"]
        with ThreadPoolExecutor(8) as pool:
            asked = [
                pool.submit(httpx.post, f"{server.url}/vectorize", json={"texts": texts[n:]}, timeout=60)
                for n in range(40)
            ]
            os.kill(server.devices()[0], signal.SIGKILL)
            answers = [each.result() for each in asked]
        assert [answer.status_code for answer in answers] == [200] * 40
        close = max(
            abs(a - b)
            for n, answer in enumerate(answers)
            for row, right in zip(answer.json()["textVectors"], wanted[n:], strict=True)
            for a, b in zip(row, right, strict=True)
        )
        assert close < 1e-4
        assert httpx.get(f"{server.url}/.well-known/ready").status_code == 204
        assert server.metric("clip_devices_lost_total") == 1
        assert "device process 0 was ended by SIGKILL; the others go on" in server.end()
        assert server.process.returncode == 0


def test_a_device_that_hangs_fails_as_one_that_ends() -> None:
    """In a front the time for a batch is fixed, so the device is told to hang by a stop, and its end by a kill."""
    with started(2, "tests.processes.two_devices", VECTOR_CACHE_BYTES="0") as server:
        wait_until(lambda: len(server.devices()) == 2)
        stopped = server.devices()[0]
        os.kill(stopped, signal.SIGSTOP)
        with ThreadPoolExecutor(8) as pool:
            asked = [
                pool.submit(httpx.post, f"{server.url}/vectorize", json={"texts": [f"text {n}"]}, timeout=60)
                for n in range(8)
            ]
            time.sleep(0.5)
            os.kill(stopped, signal.SIGKILL)
            assert {each.result().status_code for each in asked} == {200}


def test_a_front_imports_no_engine_and_a_device_no_web_framework(server: Server) -> None:
    for each in server.fronts():
        maps = Path(f"/proc/{each}/maps").read_text(encoding="utf-8")
        assert "openvino" not in maps and "libtorch" not in maps
    code = "import sys, app.processes.device; print([m for m in ('fastapi', 'uvicorn') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).strip() == "[]"
    private = [
        sum(
            int(line.split()[1])
            for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
            if "Private" in line
        )
        for each in server.fronts()
    ]
    assert max(private) < 70 * 1024
