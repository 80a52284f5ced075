"""HTTP as bytes on a socket, for what no client library would send."""

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

# A hang guard: no answer takes so long.
SECONDS = 60.0


@contextlib.contextmanager
def connect(url: str) -> Iterator[socket.socket]:
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), SECONDS) as sock:
        sock.settimeout(SECONDS)
        yield sock


def post(body: bytes = b'{"texts": ["1"]}', *headers: bytes, path: bytes = b"/vectorize") -> bytes:
    lines = [b"POST " + path + b" HTTP/1.1", b"Host: a", *headers, b"Content-Length: %d" % len(body)]
    return b"\r\n".join([*lines, b"", b""]) + body


def read_answer(sock: socket.socket) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON of the next final answer."""
    file = sock.makefile("rb", buffering=0)
    status = 100
    while status == 100:
        line = file.readline()
        assert line.startswith(b"HTTP/1.1 "), line
        status = int(line.split()[1])
        headers = {}
        while line := file.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
    body = b""
    while len(body) < int(headers.get("content-length", 0)):
        some = file.read(int(headers["content-length"]) - len(body))
        assert some, "the answer is cut off"
        body += some
    return status, headers, json.loads(body) if body else None


def is_closed(sock: socket.socket) -> bool:
    """Whether the server ends the connection, rather than say any more."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def talk(url: str, data: bytes) -> tuple[int, dict[str, str], Any]:
    """The answer to these bytes."""
    with connect(url) as sock:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(data)
        return read_answer(sock)
