"""The port: bound before anything slow is imported or loaded, so that clients wait instead of being refused."""

import contextlib
import socket

from app.errors import ConfigurationError

_ANY = "::"
_BACKLOG = 2048


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on every address of `host`; `::` is every address of IPv4 too.

    Brackets around an IPv6 address do no harm. Raises ConfigurationError with the name and the value of what cannot
    be bound.
    """
    name = host.strip().removeprefix("[").removesuffix("]")
    if name == _ANY:
        with contextlib.suppress(OSError):
            return [_bind(socket.AF_INET6, (_ANY, port), dual=True)]
        name = "0.0.0.0"  # a system without IPv6
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"HOST={host!r} is no address of this machine: {_reason(error)}") from error
    sockets: list[socket.socket] = []
    failures: list[OSError] = []
    for family, address in dict.fromkeys((each[0], each[4]) for each in found):
        try:
            sockets.append(_bind(family, address))
        except OSError as error:
            failures.append(error)
    if not sockets:
        raise ConfigurationError(f"HOST={host!r}, PORT={port}: cannot listen there: {_reason(failures[0])}")
    return sockets


def shown(sock: socket.socket) -> str:
    """A socket's own address, as in a URL."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind(family: int, address: tuple[object, ...], dual: bool = False) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dual else 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)).lower()
