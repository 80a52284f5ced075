"""A request beside its body: its path, its id, its token, and whether its client still waits."""

import asyncio
import base64
import hmac
import itertools
import os
import re
import time
from typing import TypeVar

from fastapi import Request
from starlette.types import Scope

from app.errors import ClientGone, Unauthorized

T = TypeVar("T")

TIMELINE = "timeline"
"""The key in the scope of a traced request that holds its Timeline."""

_REQUEST_ID = re.compile(rb"[!-~]{1,128}")
# Most requests are answered before it is worth watching whether their client leaves.
_WATCHED_AFTER = 0.05


class Client:
    """The client that waits for an answer, since `arrived` by time.monotonic(): a Caller of serving.

    Set `has_sent` once the body is read: from then on it notices that the client leaves.
    """

    def __init__(self, request: Request) -> None:
        self.arrived = time.monotonic()
        self.timeline = request.scope.get(TIMELINE)
        self.has_sent = False
        self._receive = request.receive
        self._gone = False

    async def wait(self, future: asyncio.Future[T]) -> T:
        """The future's result. Cancels the future and raises ClientGone once the client has left."""
        watching: list[asyncio.Task[None]] = []

        async def cancel_when_gone() -> None:
            while (await self._receive())["type"] != "http.disconnect":
                pass
            self._gone = True
            future.cancel()

        def watch() -> None:
            watching.append(asyncio.ensure_future(cancel_when_gone()))

        timer = asyncio.get_running_loop().call_later(_WATCHED_AFTER, watch) if self.has_sent else None
        try:
            return await future
        except asyncio.CancelledError:
            if self._gone:
                raise ClientGone("the client closed the connection") from None
            raise
        finally:
            if timer is not None:
                timer.cancel()
            for task in watching:
                task.cancel()


class RequestIDs:
    """Gives each request its X-Request-ID: the caller's, or a new one."""

    def __init__(self) -> None:
        self._prefix = os.urandom(8).hex()
        self._numbers = itertools.count(1)

    def of(self, scope: Scope) -> str:
        """The id that the caller sent, if it is safe in a header and a log; else a new one."""
        for name, value in scope["headers"]:
            if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
                return str(value, "ascii")
        return f"{self._prefix}{next(self._numbers):016x}"


def one_spelling(path: str) -> str:
    """The path with single slashes, none at its end, and one /v1 before the paths of OpenAI's clients."""
    path = re.sub(r"//+", "/", path) if "//" in path else path
    if path.startswith(("/embeddings", "/models", "/v1/v1/")):
        path = re.sub("^(/v1)*", "/v1", path)
    return path if path == "/" else path.removesuffix("/")


def check_token(scope: Scope, token: bytes) -> None:
    """Raises Unauthorized without the token, as bearer or as the password of Basic with any user."""
    header = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    scheme, _, given = header.partition(b" ")
    given = given.strip()
    if scheme.lower() == b"basic":
        try:
            given = base64.b64decode(given, validate=True).partition(b":")[2]
        except ValueError:
            given = b""
    elif scheme.lower() != b"bearer":
        given = b""
    if not hmac.compare_digest(given, token):
        raise Unauthorized(
            "a token is needed: send the header Authorization: Bearer TOKEN, or the token as the password in "
            "http://user:TOKEN@host:port"
        )
