"""What every request passes on its way to the routes, and every answer on its way back."""

import asyncio
import base64
import hmac
import logging
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import logs
from app.api.status import log_refusal, response_to
from app.errors import ServiceError, Unauthorized, describe_unforeseen

if TYPE_CHECKING:
    from app.api.tracing import Tracer

_log = logging.getLogger(__name__)

# Health, for whoever watches the container, and the page, which asks its user for the token.
OPEN = re.compile(r"/\.well-known/(live|ready)|/health|/|/page/.*")

# Where the scope of a request that is traced holds its Timeline.
TIMELINE = "timeline"

_REQUEST_ID = re.compile(rb"[!-~]{1,128}")


class Entry:
    """Makes one path of its spellings, gives the request its X-Request-ID, asks for the `token`, and turns what
    nobody foresaw into an answer.

    `count` is called with the path and the status of each answer. `tracer` adds to the span of each
    request what happened to it.
    """

    def __init__(
        self, app: ASGIApp, token: str | None, count: Callable[[str, int], None], tracer: "Tracer | None" = None
    ) -> None:
        self._app = app
        self._token = token.encode() if token else None
        self._count = count
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] = one_spelling(scope["path"])
        identifier = _request_id(scope)
        logs.request_id.set(identifier)
        started = False
        trace = self._tracer.begin(identifier) if self._tracer is not None else None
        if trace is not None:
            scope[TIMELINE] = trace.timeline

        async def send_counted(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", identifier.encode())]
                self._count(path, message["status"])
                if trace is not None:
                    trace.finish()
            await send(message)

        try:
            if self._token is not None and not OPEN.fullmatch(path):
                _check_token(scope, self._token)
            await self._app(scope, receive, send_counted)
        except Unauthorized as error:
            log_refusal(scope["method"], path, 401, error)
            await response_to(error, path)(scope, receive, send_counted)
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a native library's panic is no Exception
            _log.error("%s %s failed: %s", scope["method"], path, describe_unforeseen(error))
            if not started:
                message = "the server failed on this request; its log says why"
                await response_to(ServiceError(message), path)(scope, receive, send_counted)
        finally:
            if trace is not None:
                trace.finish()


def _request_id(scope: Scope) -> str:
    """The X-Request-ID that the caller sent, if it can stand in a header and a log; else a new one."""
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return given.decode() if _REQUEST_ID.fullmatch(given) else os.urandom(16).hex()


def one_spelling(path: str) -> str:
    """The path with single slashes, none at its end, and one /v1 before what OpenAI's clients ask for."""
    path = re.sub(r"//+", "/", path) if "//" in path else path
    if path.startswith(("/embeddings", "/models", "/v1/v1/")):
        path = re.sub("^(/v1)*", "/v1", path)
    return path if path == "/" else path.removesuffix("/")


def _check_token(scope: Scope, token: bytes) -> None:
    """Raises Unauthorized. The token counts as bearer, and as the password of Basic whoever the user is."""
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
