"""Why a connection is refused: a head that is too large, a request that does not arrive, or no HTTP/1.1 at all."""

import httptools

MAX_HEAD_BYTES = 64 * 1024

# What other protocols begin with.
_OTHER_PROTOCOLS = {
    b"\x16\x03": "this port speaks plain HTTP, not TLS: use http://, or put a proxy that terminates TLS in front",
    b"PRI * HTTP/2.0": "this port speaks no HTTP/2 (h2c): set the client, or the proxy in front, to HTTP/1.1",
    b"PROXY ": "this port reads no PROXY protocol: turn it off in the load balancer before it",
    b"\r\n\r\n\0\r\nQUIT\n": "this port reads no PROXY protocol: turn it off in the load balancer before it",
}


class Refused(Exception):
    """Answers a request with `status` and this message, and ends its connection."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def too_large() -> Refused:
    """The answer to a head that is too large."""
    return Refused(431, f"the head of the request has more than {MAX_HEAD_BYTES} bytes; send less")


def refusal(error: httptools.HttpParserError, data: bytes) -> Refused:
    """The answer to a request that the parser rejected while it read `data`."""
    if isinstance(error.__context__, Refused):
        return error.__context__
    for start, problem in _OTHER_PROTOCOLS.items():
        if data.startswith(start):
            return Refused(400, problem)
    if isinstance(error, httptools.HttpParserCallbackError):
        return Refused(400, "the address of the request cannot be read")
    return Refused(400, f"the request is not valid HTTP: {error}")
