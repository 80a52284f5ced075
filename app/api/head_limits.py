"""How large the head of a request may be, and what is said of a request that the parser does not take."""

import httptools

_MAX_URL_BYTES = 8 * 1024
_MAX_HEAD_BYTES = 64 * 1024
# Of each header line, beside its bytes, as HTTP/2 counts them.
_LINE_BYTES = 32

# What other protocols begin with.
_OTHER_PROTOCOLS = {
    b"\x16\x03": "this port speaks plain HTTP, not TLS: use http://, or put a proxy that ends TLS before it",
    b"PRI * HTTP/2.0": "this port speaks no HTTP/2 (h2c): set the client, or the proxy before it, to HTTP/1.1",
    b"PROXY ": "this port reads no PROXY protocol: turn it off in the load balancer before it",
    b"\r\n\r\n\0\r\nQUIT\n": "this port reads no PROXY protocol: turn it off in the load balancer before it",
}


class Refused(Exception):
    """A request that is answered with `status` and this message, and with it the connection ends."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class HeadLimits:
    """Counts the bytes of each head as it arrives, and raises Refused when they are too many.

    The parser tells of a header only when it has come whole, so what has arrived since it last told of anything
    counts as well.
    """

    def __init__(self) -> None:
        self._bytes = 0
        self._untold_bytes = 0

    def begin(self) -> None:
        """A request begins."""
        self._bytes = self._untold_bytes = 0

    def arrived(self, count: int) -> None:
        """So many bytes go to the parser."""
        self._untold_bytes += count

    def told(self) -> None:
        """The parser has told of a part of the request."""
        self._untold_bytes = 0

    def url(self, url: bytes) -> None:
        """As much of the address as has come."""
        if len(url) > _MAX_URL_BYTES:
            raise Refused(414, _too_large("the address of the request", _MAX_URL_BYTES))

    def header(self, name: bytes, value: bytes) -> None:
        """A whole header, also one after the body."""
        self.told()
        self._bytes += len(name) + len(value) + _LINE_BYTES
        if self._bytes > _MAX_HEAD_BYTES:
            raise Refused(431, _too_large("the head of the request", _MAX_HEAD_BYTES))

    def check_untold(self) -> None:
        """The parser has taken what has arrived."""
        if self._untold_bytes > _MAX_HEAD_BYTES:
            raise Refused(431, _too_large("a header", _MAX_HEAD_BYTES))


def refusal(error: httptools.HttpParserError, data: bytes) -> Refused:
    """What is answered to a request that ended the parser while it read `data`."""
    if isinstance(error.__context__, Refused):
        return error.__context__
    for start, problem in _OTHER_PROTOCOLS.items():
        if data.startswith(start):
            return Refused(400, problem)
    if isinstance(error, httptools.HttpParserCallbackError):
        return Refused(400, "the address of the request cannot be read")
    return Refused(400, f"the request is not valid HTTP: {error}")


def _too_large(what: str, most: int) -> str:
    return f"{what} has more than {most} bytes; send less"
