"""The port, and the limit on connections.

The port is bound before anything slow is imported or loaded, so that clients wait instead of being refused.
"""

import contextlib
import logging
import resource
import socket
from collections.abc import Collection
from typing import Any

from app.errors import ConfigurationError

_log = logging.getLogger(__name__)

_BACKLOG = 2048
# More is useless, and some systems say "no limit" but mean less.
_MAX_FILES = 2**20
# For files that the server opens at work, and connections that arrive before closed ones are gone.
_SPARE = 64


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on every address of `host`; `::` is every address, of IPv4 too.

    An IPv6 address may be in brackets. Raises ConfigurationError with the name and value that cannot be bound.
    """
    name = host.strip().removeprefix("[").removesuffix("]")
    if name == "::":
        with contextlib.suppress(OSError, ValueError):
            return [_bind(socket.AF_INET6, ("::", port), dual=True)]
        name = "0.0.0.0"  # a system without IPv6
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"HOST={host!r} is not an address of this machine: {_reason(error)}") from error
    sockets, failures = [], []
    for family, address in dict.fromkeys((each[0], each[4]) for each in found):
        try:
            sockets.append(_bind(family, address))
        except OSError as error:
            failures.append(error)
    if not sockets:
        raise ConfigurationError(f"HOST={host!r}, PORT={port}: cannot listen there: {_reason(failures[0])}")
    return sockets


def shown(sock: socket.socket) -> str:
    """The address of a socket, as in a URL."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind(family: int, address: tuple[Any, ...], dual: bool = False) -> socket.socket:
    sock = socket.create_server(address, family=family, backlog=_BACKLOG, dualstack_ipv6=dual)
    sock.setblocking(False)
    return sock


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)).lower()


def raise_open_files() -> int:
    """Raise this process's limit on open files as far as the system allows; returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
    for limit in (wanted, 10_240):  # macOS calls it infinity, and takes this
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            return limit
    return soft


class ConnectionLimit:
    """Closes the connections idle longest when a new one would exceed the limit.

    Beyond it the system would silently close every new connection, those of health probes too.
    """

    def __init__(self, open_files: int) -> None:
        self._most = max(16, open_files * 7 // 8 - _SPARE)
        self._open_files = open_files
        self._is_logged = False

    def before_another(self, connections: Collection[Any]) -> None:
        """Make room before a connection is added to `connections`."""
        if len(connections) < self._most:
            return
        idle = sorted((each for each in connections if each.idle_since is not None), key=lambda each: each.idle_since)
        closed = idle[: max(1, self._most // 16)]
        for each in closed:
            each.transport.abort()
        if not self._is_logged:
            self._is_logged = True
            _log.warning(
                "%d connections are open, and %d open files allowed (ulimit -n): closing the %d idle longest",
                len(connections),
                self._open_files,
                len(closed),
            )
