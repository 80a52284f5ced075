"""The body of POST /vectorize: from JSON to items, piece by piece.

A library parses a body of 128 MiB in one call, which keeps the interpreter's lock, and with it every other
thread and the event loop, for as long as that takes; and it makes all nine million strings of a hostile body
before anybody can count them. So this reads token by token, in C where a token is long but never more than a
piece of it at once, and counts while it reads.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

import msgspec

from app.errors import InvalidRequest, TooLarge

_PIECE = 128 * 1024
_DEEPEST = 100
# Of the values that are neither texts nor images and mean nothing here.
_MOST_OTHER_VALUES = 100_000

_SPACE = re.compile(rb"[ \t\n\r]*+")
_SCALAR = re.compile(rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?|true|false|null")
_LONGEST_SCALAR = 1024
# Whole characters of a string: none ends inside an escape, or between the two halves of a pair.
_CHARACTERS = re.compile(
    rb'(?:[^"\\]++|\\(?:["\\/bfnrt]'
    rb"|u(?:[0-9a-ce-fA-CE-F][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}"
    rb"|[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})))*+"
)
_LONGEST_CHARACTER = 12
_HALF_A_PAIR = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_CONTROL = re.compile(rb"[\x00-\x1f]")
_string_decoder = msgspec.json.Decoder(str)

_NAMES = {"{": "an object", "[": "an array", '"': "a string", "n": "null", "t": "true", "f": "false"}
_MISSPELT = {"text": "texts", "texts": "texts", "image": "images", "images": "images"}
_LONGEST_SHOWN = 40
_EXAMPLE = '{"texts": ["a red car"], "images": ["<base64>"]}'


@dataclass
class VectorizeRequest:
    """Items of POST /vectorize, as UTF-8. Equal items are one object."""

    texts: list[bytes] = field(default_factory=list)
    images: list[bytes] = field(default_factory=list)


def parse_request(body: bytes | bytearray, most_items: int) -> VectorizeRequest:
    """Parse a request body of at most `most_items` items.

    Lets other threads run, however large the body is. Raises InvalidRequest that names the item, TooLarge.
    """
    return _Parser(body, most_items).parse()


class _BadString(Exception):
    """What is wrong with a string, to be read after its name."""


class _Parser:
    def __init__(self, body: bytes | bytearray, most_items: int) -> None:
        self._body = body
        self._view = memoryview(body)
        self._at = 3 if body.startswith(b"\xef\xbb\xbf") else 0  # a byte-order mark
        self._most_items = most_items
        self._items = 0
        self._other_values = 0
        self._known: dict[bytes, bytes] = {}

    def parse(self) -> VectorizeRequest:
        first = self._next()
        if first == -1:
            raise InvalidRequest(f"the body is empty; send {_EXAMPLE}")
        if first != ord("{"):
            self._other("the body", 0)
            self._end()
            raise InvalidRequest(f"the body is {_name(first)}, not an object; send {_EXAMPLE}")
        request = VectorizeRequest()
        others: list[str] = []
        for key in self._keys("the body"):
            if key == "texts":
                request.texts = self._strings(key)
            elif key == "images":
                request.images = self._strings(key)
            else:
                others.append(key[:_LONGEST_SHOWN])
                self._other(f"the value of {_shown(key)}", 1)
        self._end()
        if not request.texts and not request.images:
            _refuse_misspelt(others)
        return request

    def _strings(self, key: str) -> list[bytes]:
        first = self._next()
        if first != ord("["):
            self._other(key, 1)
            if first == ord("n"):
                return []
            raise InvalidRequest(f"{key}: expected an array of strings, got {_name(first)}")
        items: list[bytes] = []
        for _ in self._elements():
            if (first := self._next()) != ord('"'):
                self._other(f"{key}[{len(items)}]", 2)
                raise InvalidRequest(f"{key}[{len(items)}]: expected a string, got {_name(first)}")
            self._items += 1
            if self._items > self._most_items:
                raise TooLarge(f"the request has more than the {self._most_items} items allowed; split it")
            try:
                item = self._string()
            except _BadString as error:
                raise InvalidRequest(f"{key}[{len(items)}]: {error}") from error
            items.append(self._known.setdefault(item, item))
        return items

    def _other(self, name: str, depth: int) -> None:
        """Pass a value of any kind."""
        self._other_values += 1
        if self._other_values > _MOST_OTHER_VALUES:
            raise InvalidRequest("the body holds too much beside texts and images; send only these")
        if depth > _DEEPEST:
            raise InvalidRequest(f"{name} is nested more than {_DEEPEST} deep")
        first = self._next()
        if first == ord('"'):
            try:
                self._string()
            except _BadString as error:
                raise InvalidRequest(f"{name}: {error}") from error
        elif first == ord("["):
            for _ in self._elements():
                self._other(name, depth + 1)
        elif first == ord("{"):
            for _ in self._keys(name):
                self._other(name, depth + 1)
        elif found := _SCALAR.match(self._body, self._at, self._at + _LONGEST_SCALAR):
            self._at = found.end()
        else:
            self._fail("expected a value")

    def _elements(self) -> Iterator[None]:
        """Stops before each element of an array."""
        self._at += 1
        if self._next() != ord("]"):
            yield
            while self._next() == ord(","):
                self._at += 1
                yield
        self._expect("]")

    def _keys(self, name: str) -> Iterator[str]:
        """Stops before the value of each key of an object."""
        self._at += 1
        if self._next() != ord("}"):
            yield self._key(name)
            while self._next() == ord(","):
                self._at += 1
                yield self._key(name)
        self._expect("}")

    def _key(self, name: str) -> str:
        if self._next() != ord('"'):
            self._fail("expected a key in quotes")
        try:
            key = self._string().decode()
        except _BadString as error:
            raise InvalidRequest(f"a key of {name}: {error}") from error
        self._expect(":")
        return key

    def _string(self) -> bytes:
        """The UTF-8 of the string that begins here; raises _BadString."""
        start = self._at + 1
        parts = []
        while True:
            end = self._end_of_piece(start)
            parts.append(self._unescape(start, end))
            if end < len(self._body) and self._body[end] == ord('"'):
                self._at = end + 1
                return parts[0] if len(parts) == 1 else b"".join(parts)
            if end == start:
                self._fail_at(start)
            start = end

    def _end_of_piece(self, start: int) -> int:
        """Up to where a string is read at once: to its end, or to the end of one of its characters."""
        body = self._body
        stop = min(start + _PIECE, len(body))
        quote = body.find(b'"', start, stop)
        if quote != -1 and body[quote - 1] != ord("\\"):
            return quote
        while stop < len(body) and stop > start + _PIECE - 3 and body[stop] & 0xC0 == 0x80:
            stop -= 1  # no character of UTF-8 is cut
        if quote == -1 and body.find(b"\\", max(start, stop - _LONGEST_CHARACTER), stop) == -1:
            return stop
        return self._end_of_characters(start, stop)

    def _end_of_characters(self, start: int, stop: int) -> int:
        found = _CHARACTERS.match(self._body, start, stop)
        return found.end() if found else start

    def _unescape(self, start: int, stop: int) -> bytes:
        piece = b"".join((b'"', self._view[start:stop], b'"'))
        try:
            return _string_decoder.decode(piece).encode()
        except (msgspec.DecodeError, UnicodeDecodeError):
            if found := _CONTROL.search(piece):
                problem = f"holds the control character 0x{found[0][0]:02x}, which JSON wants escaped"
                raise _BadString(problem) from None
            if (end := self._end_of_characters(start, stop)) < stop:
                self._fail_at(end)
            raise _BadString("is not valid UTF-8") from None

    def _fail_at(self, at: int) -> NoReturn:
        if _HALF_A_PAIR.match(self._body, at):
            raise _BadString(f"holds half a surrogate pair, which is no character (byte {at})")
        if len(self._body) - at < _LONGEST_CHARACTER:
            raise _BadString("does not end; the body seems to be cut off")
        raise _BadString(f"holds an escape that JSON does not know (byte {at})")

    def _next(self) -> int:
        """The byte at which the next token begins; -1 at the end."""
        while True:
            stop = self._at + _PIECE
            found = _SPACE.match(self._body, self._at, stop)
            self._at = found.end() if found else self._at
            if self._at < stop:
                return self._body[self._at] if self._at < len(self._body) else -1

    def _expect(self, token: str) -> None:
        if self._next() != ord(token):
            self._fail(f'expected "{token}"')
        self._at += 1

    def _end(self) -> None:
        if self._next() != -1:
            self._fail("expected its end")

    def _fail(self, problem: str) -> NoReturn:
        where = f"byte {self._at}" if self._at < len(self._body) else "the body ends here"
        raise InvalidRequest(f"the body is not valid JSON: {problem} ({where})")


def _name(first: int) -> str:
    """What begins with this byte, in words."""
    return _NAMES.get(chr(first), "a number")


def _shown(key: str) -> str:
    return f'"{key}"' if len(key) <= _LONGEST_SHOWN else f'"{key[:_LONGEST_SHOWN]}…"'


def _refuse_misspelt(keys: list[str]) -> None:
    for key in keys:
        if right := _MISSPELT.get(key.strip().lower()):
            raise InvalidRequest(f'nothing is asked for: the key is "{right}", not {_shown(key)}; send {_EXAMPLE}')
