"""The port. It is bound before anything slow is imported or loaded, so that clients wait instead of being refused."""

import contextlib
import logging
import socket
from typing import Any

from app.errors import ConfigurationError

_log = logging.getLogger(__name__)

_BACKLOG = 2048


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
    _log.info("listening on http://%s", shown(sock))
    return sock


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)).lower()
