"""What every request passes on its way to the routes, and every answer on its way back."""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from fastapi import Request, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import logs
from app.api.request import TIMELINE, RequestIDs, check_token, one_spelling
from app.api.status import response_to
from app.errors import ServiceError, describe_unforeseen

if TYPE_CHECKING:
    from app.api.tracing import Tracer

_log = logging.getLogger(__name__)

# Without a token: health, for whatever watches the container, and the page, which asks its user for the token.
OPEN = re.compile(r"/\.well-known/(live|ready)|/health|/|/page/.*")


class Entry:
    """Normalises the path, gives the request its X-Request-ID, checks the `token`, and answers every error.

    POST /vectorize goes straight to `vectorize`: FastAPI's routing takes longer than all the work for one text.
    `count` is called with the path and the status of each answer. `tracer` adds to the span of each request what
    happened to it.
    """

    def __init__(
        self,
        app: ASGIApp,
        vectorize: Callable[[Request], Awaitable[Response]],
        token: str | None,
        count: Callable[[str, int], None],
        tracer: "Tracer | None" = None,
    ) -> None:
        self._app = app
        self._vectorize = vectorize
        self._token = token.encode() if token else None
        self._count = count
        self._tracer = tracer
        self._ids = RequestIDs()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] = one_spelling(scope["path"])
        identifier = self._ids.of(scope)
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
                check_token(scope, self._token)
            if path == "/vectorize" and scope["method"] == "POST" and trace is None:
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
        finally:
            if trace is not None:
                trace.finish()
