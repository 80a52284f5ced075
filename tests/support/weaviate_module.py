"""What Weaviate's multi2vec-clip module does, as its Go source says it: the HTTP client, and the vectors."""

import http.client
import json
import select
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]

# net/http's DefaultTransport.
_IDLE_SECONDS = 90
_IDLE_CONNECTIONS = 2

_CALL_SECONDS = 50
_READY_SECONDS = 0.5


class ModuleError(Exception):
    """What Weaviate would report."""


@dataclass
class Poll:
    """One readiness poll: its status, or None if the connection was refused, and how long it took."""

    status: int | None
    body: bytes
    seconds: float


@dataclass
class _Idle:
    connection: http.client.HTTPConnection
    since: float = field(default_factory=time.monotonic)

    def usable(self) -> bool:
        """Not too old, and not closed by the server: net/http reads idle connections and drops closed ones."""
        readable, _, _ = select.select([self.connection.sock], [], [], 0)
        return not readable and time.monotonic() - self.since < _IDLE_SECONDS


class GoClient:
    """The module's HTTP client. It follows no redirects, and resends nothing."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._idle: list[_Idle] = []
        self._lock = threading.Lock()
        self.dialled = 0
        self.reused = 0

    def ready(self) -> Poll:
        start = time.monotonic()
        try:
            status, body = self.send("GET", "/.well-known/ready", seconds=_READY_SECONDS)
        except ConnectionRefusedError:
            return Poll(None, b"", time.monotonic() - start)
        return Poll(status, body, time.monotonic() - start)

    def wait_for_startup(self, deadline: float = 120, interval: float = 1) -> list[Poll]:
        """Poll until ready; raises TimeoutError as soon as a poll gets no answer in time."""
        polls: list[Poll] = []
        end = time.monotonic() + deadline
        while time.monotonic() < end:
            polls.append(self.ready())
            if polls[-1].status is not None and polls[-1].status <= 299:
                return polls
            time.sleep(interval)
        raise ModuleError("init context expired before remote was ready")

    def meta(self) -> dict[str, Any]:
        _, body = self.send("GET", "/meta")
        meta = json.loads(body)
        if not isinstance(meta, dict):
            raise ModuleError("unmarshal meta response body")
        return meta

    def vectorize(self, texts: list[str], images: list[str], origin: str = "") -> tuple[list[Vector], list[Vector]]:
        """Vectors of texts and of images. `origin` is a class's inferenceUrl."""
        request = {key: items for key, items in (("texts", texts), ("images", images)) if items}
        status, body = self.send("POST", "/vectorize", json.dumps(request).encode(), origin=origin)
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
        headers = {"User-Agent": "Go-http-client/1.1", "Accept-Encoding": "gzip"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        url = urlsplit((origin or self._origin) + path)
        with self._connection(url.netloc, seconds) as connection:
            connection.request(method, url.path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()

    @contextmanager
    def _connection(self, address: str, seconds: float) -> Iterator[http.client.HTTPConnection]:
        with self._lock:
            connection = self._take_idle(address)
            self.dialled += connection is None
            self.reused += connection is not None
        if connection is None:
            connection = http.client.HTTPConnection(address)
        connection.timeout = seconds
        if connection.sock is not None:
            connection.sock.settimeout(seconds)
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        with self._lock:
            if connection.sock is not None and len(self._idle) < _IDLE_CONNECTIONS:
                self._idle.append(_Idle(connection))
            else:
                connection.close()

    def _take_idle(self, address: str) -> http.client.HTTPConnection | None:
        while self._idle:
            idle = self._idle.pop()
            if f"{idle.connection.host}:{idle.connection.port}" == address and idle.usable():
                return idle.connection
            idle.connection.close()
        return None


@dataclass(frozen=True)
class ClassSettings:
    """The module's part of a class."""

    text_fields: tuple[str, ...] = ()
    image_fields: tuple[str, ...] = ()
    text_weights: tuple[float, ...] = ()
    image_weights: tuple[float, ...] = ()
    inference_url: str = ""

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> "ClassSettings":
        weights = config.get("weights", {})
        return cls(
            tuple(config.get("textFields", ())),
            tuple(config.get("imageFields", ())),
            tuple(weights.get("textFields", ())),
            tuple(weights.get("imageFields", ())),
            config.get("inferenceUrl", ""),
        )

    @property
    def weights(self) -> list[float] | None:
        """Normalised to a sum of 1; None without weights."""
        weights = [*self.text_weights, *self.image_weights]
        return [weight / sum(weights) for weight in weights] or None


@dataclass(frozen=True)
class Move:
    """moveTo or moveAwayFrom: texts, vectors of objects, or both."""

    force: float
    concepts: tuple[str, ...] = ()
    objects: tuple[Vector, ...] = ()


class Module:
    """Objects and queries to vectors."""

    def __init__(self, client: GoClient, at_once: int) -> None:
        self._client = client
        self._at_once = at_once

    def vectorize_object(self, properties: Mapping[str, Any], settings: ClassSettings) -> Vector:
        texts: list[str] = []
        images: list[str] = []
        for name, value in sorted(properties.items()):
            if isinstance(value, str):
                images += [value] * (name in settings.image_fields)
                texts += [value] * (name in settings.text_fields)
            elif isinstance(value, list) and name in settings.text_fields:
                texts += value
        if not texts and not images:
            return combine([], None)
        text_vectors, image_vectors = self._client.vectorize(texts, images, settings.inference_url)
        return combine([*text_vectors, *image_vectors], settings.weights)

    def vectorize_batch(
        self, objects: list[Mapping[str, Any]], settings: ClassSettings
    ) -> list[Vector | ModuleError | OSError]:
        """One request an object, so many at once; what failed is in its place as the error."""

        def one(properties: Mapping[str, Any]) -> Vector | ModuleError | OSError:
            try:
                return self.vectorize_object(properties, settings)
            except (ModuleError, OSError) as error:
                return error

        with ThreadPoolExecutor(self._at_once) as pool:
            return list(pool.map(one, objects))

    def near_text(
        self,
        concepts: list[str],
        settings: ClassSettings,
        move_to: Move | None = None,
        move_away: Move | None = None,
    ) -> Vector:
        vector = self._texts(concepts, settings)
        if move_to and move_to.force > 0:
            half = np.float32(move_to.force * 0.5)
            vector = vector * (1 - half) + self._target(move_to, settings) * half
        if move_away and move_away.force > 0:
            half = np.float32(move_away.force * 0.5)
            vector = vector + half * (vector - self._target(move_away, settings))
        return vector

    def near_image(self, image: str, settings: ClassSettings) -> Vector:
        _, vectors = self._client.vectorize([], [image], settings.inference_url)
        if len(vectors) != 1:
            raise ModuleError("empty vector")
        return vectors[0]

    def _texts(self, texts: list[str], settings: ClassSettings) -> Vector:
        vectors, _ = self._client.vectorize(texts, [], settings.inference_url)
        if len(vectors) != len(texts):
            raise ModuleError("inputs are not equal to vectors returned")
        return combine(vectors, None)

    def _target(self, move: Move, settings: ClassSettings) -> Vector:
        words = [self._texts(list(move.concepts), settings)] if move.concepts else []
        return combine([*words, *move.objects], None)


def _vectors(rows: list[list[float]] | None) -> list[Vector]:
    return [np.array(row, np.float32) for row in rows or []]


def combine(vectors: list[Vector], weights: list[float] | None) -> Vector:
    """The weighted sum divided by the number of vectors, which are not normalised first."""
    if not vectors:
        return np.zeros(0, np.float32)
    if weights is None:
        return np.sum(vectors, axis=0, dtype=np.float32) / np.float32(len(vectors))
    weighted = [vector * np.float32(weight) for vector, weight in zip(vectors, weights, strict=False)]
    return np.sum(weighted, axis=0, dtype=np.float32) / np.float32(len(vectors))


def cosine_distances(vector: Vector, others: Vector) -> Vector:
    """Of one vector to each row."""
    lengths = np.linalg.norm(vector) * np.linalg.norm(others, axis=-1)
    return 1 - others @ vector / lengths
