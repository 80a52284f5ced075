"""The HTTP client of Weaviate's multi2vec-clip module, as its Go source says it (1.39)."""

import base64
import http.client
import json
import random
import select
import threading
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]

# net/http's DefaultTransport.
_IDLE_SECONDS = 90
_IDLE_CONNECTIONS = 2

_CALL_SECONDS = 50
_READY_SECONDS = 0.5

# The pauses before a request is sent again on another connection; each is drawn out to at most twice its length.
_PAUSES = (0.05, 0.25)


class ModuleError(Exception):
    """What Weaviate would report."""


@dataclass
class Poll:
    """One readiness poll: its status and body, or why there was no answer."""

    status: int | None
    body: bytes = b""
    error: OSError | None = None


@dataclass
class _Idle:
    connection: http.client.HTTPConnection
    since: float = field(default_factory=time.monotonic)

    def usable(self) -> bool:
        """Not too old, and not closed by the server: net/http reads idle connections and drops closed ones."""
        readable, _, _ = select.select([self.connection.sock], [], [], 0)
        return not readable and time.monotonic() - self.since < _IDLE_SECONDS


class GoClient:
    """Follows no redirects. Sends a request again only if a kept connection broke before any byte of an answer."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._idle: list[_Idle] = []
        self._lock = threading.Lock()
        self.dialled = 0
        self.reused = 0
        self.resent = 0

    def ready(self) -> Poll:
        try:
            return Poll(*self.send("GET", "/.well-known/ready", seconds=_READY_SECONDS))
        except OSError as error:
            return Poll(None, error=error)

    def wait_for_startup(self, deadline: float = 120, interval: float = 1) -> list[Poll]:
        """Poll until ready; raises ModuleError if that takes too long."""
        polls: list[Poll] = []
        end = time.monotonic() + deadline
        while time.monotonic() < end:
            polls.append(self.ready())
            if polls[-1].status is not None and polls[-1].status <= 299:
                return polls
            time.sleep(interval)
        raise ModuleError("init context expired before remote was ready")

    def meta(self) -> dict[str, Any]:
        try:
            _, body = self.send("GET", "/meta")
        except OSError as error:
            raise ModuleError(f"send GET meta request: {self._as_go_says(error, 'Get', '/meta')}") from error
        meta = json.loads(body)
        if not isinstance(meta, dict):
            raise ModuleError("unmarshal meta response body")
        return meta

    def vectorize(self, texts: list[str], images: list[str], origin: str = "") -> tuple[list[Vector], list[Vector]]:
        """Vectors of texts and of images. `origin` is a class's inferenceUrl. Raises ModuleError."""
        request = {key: items for key, items in (("texts", texts), ("images", images)) if items}
        try:
            status, body = self.send("POST", "/vectorize", json.dumps(request).encode(), origin=origin)
        except http.client.IncompleteRead as error:
            raise ModuleError("read response body: unexpected EOF") from error
        except OSError as error:
            reason = self._as_go_says(error, "Post", "/vectorize", origin)
            raise ModuleError(f"send POST request: {reason}") from error
        try:
            answer = json.loads(body)
            error, text_rows, image_rows = (answer.get(key) for key in ("error", "textVectors", "imageVectors"))
            if not isinstance(error or "", str):
                raise ValueError("cannot unmarshal error into a string")
        except (ValueError, AttributeError) as cause:
            raise ModuleError(f"failed to parse vectorization response (status {status}): {cause}") from cause
        if status > 399:
            raise ModuleError(f"fail with status {status}: {error or ''}")
        return _vectors(text_rows), _vectors(image_rows)

    def send(
        self, method: str, path: str, body: bytes | None = None, seconds: float = _CALL_SECONDS, origin: str = ""
    ) -> tuple[int, bytes]:
        """Status and body of any request; `path` is appended to the origin as it is."""
        end = time.monotonic() + seconds
        pauses = iter(_PAUSES)
        while True:
            kept, result = self._attempt(method, (origin or self._origin) + path, body, end)
            if not isinstance(result, ConnectionResetError | BrokenPipeError):
                break
            pause = next(pauses, None)
            if not kept or pause is None:
                break
            with self._lock:
                self.resent += 1
            time.sleep(pause * (1 + random.random()))
        if isinstance(result, Exception):
            raise result
        return result

    def _attempt(
        self, method: str, url: str, body: bytes | None, end: float
    ) -> tuple[bool, tuple[int, bytes] | Exception]:
        """Whether the connection had been kept, and the answer or what went wrong."""
        parts = urlsplit(url)
        headers = {"User-Agent": "Go-http-client/1.1", "Accept-Encoding": "gzip"}
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        kept, connection = self._connection(parts.hostname or "", parts.port or 80)
        connection.timeout = max(0.001, end - time.monotonic())
        if connection.sock is not None:
            connection.sock.settimeout(connection.timeout)
        try:
            try:
                connection.request(method, parts.path, body, headers)
            except (BrokenPipeError, ConnectionResetError):
                if connection.sock is None:
                    raise
                # An answer may have come before the connection was closed: net/http looks.
            response = connection.getresponse()
            answer = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return kept, error
        with self._lock:
            if connection.sock is not None and len(self._idle) < _IDLE_CONNECTIONS:
                self._idle.append(_Idle(connection))
            else:
                connection.close()
        return kept, answer

    def _connection(self, host: str, port: int) -> tuple[bool, http.client.HTTPConnection]:
        """A connection, and whether it had been kept."""
        with self._lock:
            connection = self._take_idle(host, port)
            self.dialled += connection is None
            self.reused += connection is not None
        return connection is not None, connection or http.client.HTTPConnection(host, port)

    def _take_idle(self, host: str, port: int) -> http.client.HTTPConnection | None:
        while self._idle:
            idle = self._idle.pop()
            if (idle.connection.host, idle.connection.port) == (host, port) and idle.usable():
                return idle.connection
            idle.connection.close()
        return None

    def _as_go_says(self, error: OSError, method: str, path: str, origin: str = "") -> str:
        url = (origin or self._origin) + path
        address = urlsplit(url).netloc.rpartition("@")[2]
        if isinstance(error, TimeoutError):
            what = "context deadline exceeded"
        elif isinstance(error, ConnectionRefusedError):
            what = f"dial tcp {address}: connect: connection refused"
        elif isinstance(error, http.client.RemoteDisconnected):
            what = "EOF"
        elif isinstance(error, ConnectionResetError | BrokenPipeError):
            what = f"read tcp 127.0.0.1:9->{address}: read: connection reset by peer"
        else:
            what = str(error)
        return f'{method} "{url}": {what}'


def _vectors(rows: list[list[float]] | None) -> list[Vector]:
    return [np.array(row, np.float32) for row in rows or []]
