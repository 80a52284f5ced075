"""What every request passes on its way to the routes, and every answer on its way back."""

import asyncio
import base64
import hmac
import itertools
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from fastapi import Request, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import logs
from app.api.request import TIMELINE
from app.api.status import response_to
from app.errors import ServiceError, Unauthorized, describe_unforeseen

if TYPE_CHECKING:
    from app.api.tracing import Tracer

_log = logging.getLogger(__name__)

# Without a token: health, for whatever watches the container, and the page, which asks its user for the token.
_OPEN = re.compile(r"/\.well-known/(live|ready)|/health|/|/page/.*")
_REQUEST_ID = re.compile(rb"[!-~]{1,128}")


class Entry:
    """Normalises the path, gives the request its X-Request-ID, checks the `token`, and answers every error.

    POST /vectorize goes straight to `vectorize`: FastAPI's routing takes longer than all the work for one text.
    `count` is called with the path and the status of each answer, and the seconds until it begins. `tracer` adds to
    the span of each request what happened to it.
    """

    def __init__(
        self,
        app: ASGIApp,
        vectorize: Callable[[Request], Awaitable[Response]],
        token: str | None,
        count: Callable[[str, int, float], None],
        tracer: "Tracer | None" = None,
    ) -> None:
        self._app = app
        self._vectorize = vectorize
        self._token = token.encode() if token else None
        self._count = count
        self._tracer = tracer
        self._prefix = os.urandom(8).hex()
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        path = scope["path"] = one_spelling(scope["path"])
        identifier = self._identifier(scope)
        logs.request_id.set(identifier)
        started = False
        timeline = None if self._tracer is None else self._tracer.begin(identifier)
        scope[TIMELINE] = timeline

        async def send_counted(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", identifier.encode())]
                self._count(path, message["status"], time.monotonic() - began)
                if self._tracer is not None and timeline is not None:
                    self._tracer.finish(timeline)
            await send(message)

        try:
            if self._token is not None and not _OPEN.fullmatch(path):
                _check_token(scope, self._token)
            if path == "/vectorize" and scope["method"] == "POST" and timeline is None:
                response = await self._vectorize(Request(scope, receive))
                await response(scope, receive, send_counted)
            else:
                await self._app(scope, receive, send_counted)
        except ServiceError as error:
            await response_to(error, scope["method"], path)(scope, receive, send_counted)
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a native library's panic is no Exception
            _log.error("%s %s failed: %s", scope["method"], path, describe_unforeseen(error))
            if not started:
                failure = ServiceError("the server failed on this request; its log says why")
                await response_to(failure, scope["method"], path)(scope, receive, send_counted)

    def _identifier(self, scope: Scope) -> str:
        """The X-Request-ID that the caller sent, if it is safe in a header and a log; else a new one."""
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


def _check_token(scope: Scope, token: bytes) -> None:
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
