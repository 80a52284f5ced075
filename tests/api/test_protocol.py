"""HTTP as the world speaks it, and as nobody should, as bytes on the wire."""

import contextlib
import gzip
import http.client
import json
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.main import create_app
from app.settings import Settings
from app.towers import Inputs, Vectors
from tests.support.engine import FakeSession, HeldSession, fake_model
from tests.support.load import wait_until
from tests.support.server import RunningApp
from tests.support.wire import connect, is_closed, post, read_answer, talk

# Without a cache: what is asked for twice is computed twice.
LIMITS = {"max_batch": 4, "vector_cache_bytes": 0}
RunApp = Callable[..., RunningApp]
VECTOR = {"textVectors": [[1.0, 1.0, 0.0, 1.0]], "imageVectors": []}


@pytest.fixture
def url(run_app: RunApp) -> str:
    return run_app(fake_model(FakeSession()), **LIMITS).url


@pytest.fixture
def impatient(run_app: RunApp) -> str:
    """A server whose deadlines are short."""
    return run_app(fake_model(FakeSession()), **LIMITS, stall_timeout=0.3).url


@pytest.fixture
def held(run_app: RunApp) -> Iterator[tuple[RunningApp, HeldSession]]:
    """A server that answers when it is let go."""
    engine = HeldSession()
    running = run_app(fake_model(engine), **LIMITS)
    yield running, engine
    engine.go_on.set()


# What is offered -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "offer",
    [
        [b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"],
        [b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13"],
        [b"Connection: keep-alive, upgrade", b"Upgrade: TLS/1.2, HTTP/2.0"],
    ],
)
def test_an_offer_of_another_protocol_is_ignored(url: str, offer: list[bytes]) -> None:
    chunked = b"POST /vectorize HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n" + b"\r\n".join(
        [*offer, b"", b""]
    )
    body = b'{"texts": ["1"]}'
    with connect(url) as sock:
        for request in (
            post(body, *offer),
            chunked + b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n",
            post(body, *offer),
            b"GET /.well-known/ready HTTP/1.1\r\nHost: a\r\n" + b"\r\n".join([*offer, b"", b""]),
            post(body),
        ):
            sock.sendall(request)
            status, _, answer = read_answer(sock)
            assert (status, answer) == ((204, None) if request.startswith(b"GET") else (200, VECTOR))


def test_an_offer_is_ignored_however_the_request_is_cut(url: str) -> None:
    request = post(b'{"texts": ["1"]}', b"Connection: Upgrade", b"Upgrade: h2c")
    with connect(url) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for cut in range(1, len(request), 7):
            sock.sendall(request[:cut])
            time.sleep(0.002)
            sock.sendall(request[cut:])
            assert read_answer(sock)[::2] == (200, VECTOR)


def test_curl_offers_http2_and_is_answered(url: str) -> None:
    command = ["curl", "-s", "--http2", f"{url}/vectorize", "-d", '{"texts": ["1"]}']
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert '"textVectors":[[1.0' in done.stdout


def test_a_large_body_that_waits_to_be_asked_for_is(url: str) -> None:
    with connect(url) as sock:
        head, _, body = post(b'{"texts": ["1"]}', b"Expect: 100-continue").partition(b"\r\n\r\n")
        sock.sendall(head + b"\r\n\r\n")
        assert sock.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        assert read_answer(sock)[::2] == (200, VECTOR)


# Bodies --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("identity", lambda data: data),
        ("", lambda data: data),
    ],
)
def test_encoded_bodies_are_decoded(url: str, encoding: str, encode: Callable[[bytes], bytes]) -> None:
    body = b'{"texts": ["1"], "other": "' + b"x" * 1_000_000 + b'"}'
    assert talk(url, post(encode(body), b"Content-Encoding: " + encoding.encode()))[::2] == (200, VECTOR)


@pytest.mark.parametrize("encoding", ["br", "zstd", "deflate", "gzip, gzip"])
def test_other_encodings_are_named(url: str, encoding: str) -> None:
    status, headers, answer = talk(url, post(b"xxxx", b"Content-Encoding: " + encoding.encode()))
    assert status == 415 and encoding in answer["error"] and "gzip" in headers["accept-encoding"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no gzip",
        gzip.compress(b'{"texts": ["1"]}' * 9, mtime=0)[:-9],
        b"\x1f\x8b",
        gzip.compress(b"{}", mtime=0) * 2,
    ],
)
def test_a_broken_encoding_is_said_to_be_broken(url: str, body: bytes) -> None:
    status, _, answer = talk(url, post(body, b"Content-Encoding: gzip"))
    assert status == 422 and "gzip" in answer["error"]


def test_a_bomb_is_refused(run_app: RunApp) -> None:
    running = run_app(fake_model(FakeSession()), max_body_bytes=2_000_000, **LIMITS)
    bomb = gzip.compress(b" " * 100_000_000)
    assert len(bomb) < 200_000
    status, _, answer = talk(running.url, post(bomb, b"Content-Encoding: gzip"))
    assert status == 413 and "2000000" in answer["error"]
    assert set(running.used().values()) == {0}


def test_a_byte_order_mark_is_skipped(url: str) -> None:
    assert talk(url, post(b'\xef\xbb\xbf{"texts": ["1"]}'))[::2] == (200, VECTOR)


@pytest.mark.parametrize("path", [b"//vectorize", b"/vectorize/", b"///vectorize//", b"/vectorize"])
def test_slashes_do_not_count(url: str, path: bytes) -> None:
    assert talk(url, post(path=path))[::2] == (200, VECTOR)
    other = path.replace(b"vectorize", b".well-known/ready")
    assert talk(url, b"HEAD " + other + b" HTTP/1.1\r\nHost: a\r\n\r\n")[0] == 204


# Limits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: a\r\n", 431),
        (b"GET /" + b"x" * 20_000_000, 431),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000_000, 431),
        (b"GET / HTTP/1.1\r\n" + b"x" * 20_000_000, 431),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 2_000_000, 431),
        (b"POST /vectorize HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * 2_000_000, 431),
        (b"POST /vectorize HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"x" * 20_000_000, 431),
        (b"POST /vectorize HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;x=" + b"x" * 20_000_000, 431),
    ],
)
def test_heads_and_trailers_have_limits(url: str, head: bytes, status: int) -> None:
    with connect(url) as sock:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(head + b"\r\n")
        got, headers, answer = read_answer(sock)
        assert (got, headers["connection"]) == (status, "close")
        assert isinstance(answer["error"], str)
        assert is_closed(sock)


def test_trailers_say_nothing(url: str) -> None:
    body = b'{"texts": ["1"]}'
    request = b"POST /vectorize HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body) + body
    request += b"\r\n0\r\nContent-Encoding: br\r\nX: y\r\n\r\n"
    with connect(url) as sock:
        for _ in range(2):
            sock.sendall(request)
            assert read_answer(sock)[::2] == (200, VECTOR)


@pytest.mark.parametrize(
    "data",
    [
        b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /vectorize HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /vectorize HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /vectorize HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET \xff\xfe HTTP/1.1\r\n\r\n",
        b"GET http:// HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
    ],
)
def test_what_is_not_http_is_told_so_in_json(url: str, data: bytes) -> None:
    with connect(url) as sock:
        sock.sendall(data)
        status, headers, answer = read_answer(sock)
        assert 400 <= status < 500 and isinstance(answer["error"], str)
        assert headers["content-type"] == "application/json"
        assert is_closed(sock)


def test_this_is_no_proxy(url: str) -> None:
    status, _, answer = talk(url, b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n")
    assert status == 400 and "no proxy" in answer["error"]


def test_an_empty_header_is_no_other_header(url: str) -> None:
    assert talk(url, post(b'{"texts": ["1"]}', b"Content-Encoding:", b"X-A: ", b"X-B: b"))[0] == 200


# Deadlines -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [b"P", b"GET / HTTP/1.1\r\nHost: a\r\n", b"POST /vectorize HTTP/1.1\r\nContent-Length: 9\r\n\r\n{"],
)
def test_whoever_stops_in_the_middle_is_told_so_after_a_while(impatient: str, head: bytes) -> None:
    with connect(impatient) as sock:
        sock.sendall(head)
        status, headers, answer = read_answer(sock)
        assert (status, headers["connection"]) == (408, "close")
        assert "in time" in answer["error"] or "within" in answer["error"]
        assert is_closed(sock)


def test_a_head_that_drips_is_not_waited_for(impatient: str) -> None:
    with connect(impatient) as sock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for byte in b"GET / HTTP/1.1\r\nX: " + b"x" * 1000:
            sock.sendall(bytes([byte]))
            time.sleep(0.01)
            if byte == ord("x"):
                sock.settimeout(0.001)
                with contextlib.suppress(TimeoutError):
                    assert sock.recv(12) == b"HTTP/1.1 408"
                    return
        raise AssertionError("still waited for")


def test_silent_connections_are_closed() -> None:
    running = RunningApp(create_app(Settings(**LIMITS), fake_model(FakeSession())), keep_alive=1)
    with running, connect(running.url) as silent, connect(running.url) as once, connect(running.url) as blank:
        once.sendall(post())
        assert read_answer(once)[0] == 200
        blank.sendall(b"\r\n")
        assert is_closed(silent) and is_closed(once) and is_closed(blank)


class WideSession(FakeSession):
    def start(self, batch: Inputs) -> Callable[[], Vectors]:
        return lambda: np.full((len(batch["input_ids"]), 512), 1 / 3, np.float32)


def test_an_answer_that_nobody_takes_ends_the_connection(run_app: RunApp) -> None:
    load = fake_model(WideSession())
    running = run_app(lambda settings: replace(load(settings), width=512), stall_timeout=0.3, **LIMITS)
    with connect(running.url) as sock:
        sock.sendall(post(b'{"texts": [' + b",".join([b'"1"'] * 9_000) + b"]}"))
        wait_until(lambda: running.used()["requests"] > 0)
        wait_until(lambda: set(running.used().values()) == {0})
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while some := sock.recv(100_000):
                received += len(some)
    assert received < 9_000 * 512 * 10


# Clients that leave, or seem to --------------------------------------------------------------------


def test_a_client_that_closes_its_writing_half_is_answered(held: tuple[RunningApp, HeldSession]) -> None:
    running, engine = held
    with connect(running.url) as sock:
        sock.sendall(post())
        sock.shutdown(socket.SHUT_WR)
        wait_until(lambda: running.metric("clip_items_waiting") == 1)
        time.sleep(0.2)
        engine.go_on.set()
        status, headers, answer = read_answer(sock)
        assert (status, answer, headers["connection"]) == (200, VECTOR, "close")
        assert is_closed(sock)


@pytest.mark.parametrize("reset", [True, False])
def test_a_client_that_leaves_is_dropped(held: tuple[RunningApp, HeldSession], reset: bool) -> None:
    running, engine = held
    with connect(running.url) as sock:
        sock.sendall(post(b'{"texts": ["1", "2", "3", "4", "5", "6", "7", "8", "9"]}'))
        wait_until(lambda: running.metric("clip_items_waiting") == 9)
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: running.metric("clip_items_waiting") == 0)
    engine.go_on.set()
    assert talk(running.url, post())[0] == 200


def test_a_half_sent_request_whose_client_ends_is_dropped(url: str) -> None:
    for data in (b"GET / HT", post()[:-3]):
        with connect(url) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            assert is_closed(sock)


@pytest.mark.parametrize("after", [b"\0\0\0", b"nonsense\r\n\r\n", b"GET / HT", post()[:-3], b"\r\n\r\n"])
def test_what_follows_a_valid_request_costs_it_no_answer(held: tuple[RunningApp, HeldSession], after: bytes) -> None:
    running, engine = held
    for apart in (False, True):
        engine.go_on.clear()
        with connect(running.url) as sock:
            if apart:
                sock.sendall(post())
                time.sleep(0.05)
                sock.sendall(after)
            else:
                sock.sendall(post() + after)
            wait_until(lambda: running.metric("clip_items_waiting") == 1)
            time.sleep(0.05)
            engine.go_on.set()
            assert read_answer(sock)[::2] == (200, VECTOR)


def test_requests_one_behind_the_other_are_answered_in_order(url: str) -> None:
    with connect(url) as sock:
        sock.sendall(b"".join(post(b'{"texts": ["%d"]}' % i) for i in range(50)))
        for i in range(50):
            status, _, answer = read_answer(sock)
            assert status == 200 and answer["textVectors"][0][0] == i


@pytest.mark.parametrize("path", [b"/vectorize", b"/nowhere", b"/meta"])
def test_a_refusal_reaches_a_client_that_still_sends(run_app: RunApp, path: bytes) -> None:
    """A reset by what is not read any more would cost it the answer."""
    running = run_app(fake_model(FakeSession()), max_body_bytes=1000, **LIMITS)
    with connect(running.url) as sock:
        sock.sendall(b"POST " + path + b" HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(30):
                sock.sendall(b" " * 100_000)
                time.sleep(0.01)
        status, headers, answer = read_answer(sock)
        assert status in (404, 405, 413) and isinstance(answer["error"], str)
        assert headers["connection"] == "close"


def test_pythons_client_reads_a_refusal_though_it_sends_its_whole_body_first(run_app: RunApp) -> None:
    running = run_app(fake_model(FakeSession()), max_body_bytes=1000, **LIMITS)
    for length in (100_000, 20_000_000):
        connection = http.client.HTTPConnection(running.url.removeprefix("http://"), timeout=60)
        connection.request("POST", "/vectorize", b" " * length)
        answer = connection.getresponse()
        assert answer.status == 413 and b"1000" in answer.read()


JAVA = """
import java.net.URI;
import java.net.http.*;

class Ask {
    public static void main(String[] arguments) throws Exception {
        var body = HttpRequest.BodyPublishers.ofString("{\\"texts\\": [\\"1\\"]}");
        var client = HttpClient.newHttpClient();
        for (int i = 0; i < 2; i++) {
            var request = HttpRequest.newBuilder(URI.create(arguments[0] + "/vectorize")).POST(body).build();
            var answer = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.statusCode() + " " + answer.body());
        }
    }
}
"""


@pytest.mark.skipif(not shutil.which("javac"), reason="needs Java (apt-get install default-jdk-headless)")
def test_javas_client_offers_http2_and_is_answered(url: str, tmp_path: Path) -> None:
    (tmp_path / "Ask.java").write_text(JAVA)
    done = subprocess.run(["java", str(tmp_path / "Ask.java"), url], capture_output=True, text=True, timeout=120)
    answers = [line.split(" ", 1) for line in done.stdout.splitlines()]
    assert [(status, json.loads(body)) for status, body in answers] == [("200", VECTOR)] * 2, done.stderr
