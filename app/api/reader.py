"""JSON, read token by token.

A library parses a body of 128 MiB in one call. Meanwhile it holds the interpreter's lock, so that every other thread
stops, and it makes all nine million strings of a hostile body before anybody can count them. This reads token by
token, in C where a token is long but only a piece at once, and counts as it goes.
"""

import io
import re
from collections.abc import Iterator
from typing import Any, NoReturn

import msgspec
import numpy as np

from app.errors import InvalidRequest, TooLarge

_PIECE = 128 * 1024
_WORTH_A_LOOK = 4096
_MAX_DEPTH = 100
# How many values a body may hold: so many for each item, and some beside. POST /v1/embeddings has six for a picture.
_MAX_VALUES_AN_ITEM, _MAX_OTHER_VALUES = 10, 1000

_SPACE = re.compile(rb"[ \t\n\r]*+")
_SCALAR = re.compile(rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?|true|false|null")
_MAX_SCALAR_BYTES = 1024
_LITERALS = {b"true": True, b"false": False, b"null": None}
# Whole characters of a string: it ends neither inside an escape nor between the halves of a pair.
_CHARACTERS = re.compile(
    rb'(?:[^"\\]++|\\(?:["\\/bfnrt]'
    rb"|u(?:[0-9a-ce-fA-CE-F][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}"
    rb"|[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})))*+"
)
_MAX_CHARACTER_BYTES = 12
_HALF_A_PAIR = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_CONTROL = re.compile(rb"[\x00-\x1f]")
_string_decoder = msgspec.json.Decoder(str)

_NAMES = {dict: "an object", list: "an array", bytes: "a string", float: "a number", bool: "true or false"}
_MAX_SHOWN = 40


def read_object(body: bytes | bytearray, max_items: int, example: str) -> dict[str, Any]:
    """The object that is the body: strings as UTF-8, numbers as float. An error shows `example`.

    Raises InvalidRequest that names the key at fault, and the position in its array, and TooLarge as soon as there is
    far more than `max_items` items.
    """
    reader = _Reader(body, _MAX_VALUES_AN_ITEM * max_items + _MAX_OTHER_VALUES)
    if reader.next() == -1:
        raise InvalidRequest(f"the body is empty; send {example}")
    document = reader.value()
    if reader.next() != -1:
        reader.fail("expected its end")
    if not isinstance(document, dict):
        raise InvalidRequest(f"the body is {name_of(document)}, not an object; send {example}")
    return document


def name_of(value: Any) -> str:
    """The kind of a value, in words."""
    return _NAMES.get(type(value), "null")


def shown(word: str) -> str:
    """A word of the body, in quotes; a long one is cut."""
    return f'"{_shortened(word)}"'


def _shortened(word: str) -> str:
    return word if len(word) <= _MAX_SHOWN else f"{word[:_MAX_SHOWN]}…"


class _Reader:
    """Where in the body it reads, below which key, and at which position of the array there."""

    def __init__(self, body: bytes | bytearray, max_values: int) -> None:
        self._body = body
        self._view = memoryview(body)
        self._at = 3 if body.startswith(b"\xef\xbb\xbf") else 0  # a byte-order mark
        self._max_values = self._values_left = max_values
        self._depth = 0
        self._parameter = "the body"
        self._position: int | None = None

    def next(self) -> int:
        """The byte at which the next token begins; -1 at the end."""
        if self._at < len(self._body) and (first := self._body[self._at]) > 0x20:
            return first
        space = _SPACE.match(self._body, self._at)
        assert space is not None  # it matches nothing, too
        self._at = space.end()
        return self._body[self._at] if self._at < len(self._body) else -1

    def value(self) -> Any:
        """The value that begins here."""
        self._values_left -= 1
        if self._values_left < 0:
            raise TooLarge(f"the body holds more than {self._max_values} values; split it")
        first = self.next()
        if first == ord('"'):
            return self._string()
        if first == ord("["):
            return self._array()
        if first == ord("{"):
            return self._object()
        return self._scalar()

    def fail(self, problem: str) -> NoReturn:
        """Raises InvalidRequest that says where the body is no JSON."""
        where = f"byte {self._at}" if self._at < len(self._body) else "the body ends here"
        raise InvalidRequest(f"the body is not valid JSON: {problem} ({where})")

    def _array(self) -> list[Any]:
        values: list[Any] = []
        named = self._depth == 1
        for _ in self._elements("]"):
            if named:
                self._position = len(values)
            values.append(self.value())
        if named:
            self._position = None
        return values

    def _object(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        named = self._depth == 0
        for _ in self._elements("}"):
            if self.next() != ord('"'):
                self.fail("expected a key in quotes")
            key = self._string().decode()
            self._expect(":")
            if named:
                self._parameter = _shortened(key)
            values[key] = self.value()
            if named:
                self._parameter = "the body"
        return values

    def _elements(self, end: str) -> Iterator[None]:
        """Stop before each element of an array, or each key of an object."""
        self._at += 1
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self._invalid(f"is nested more than {_MAX_DEPTH} deep")
        if self.next() != ord(end):
            yield
            while self.next() == ord(","):
                self._at += 1
                yield
        self._expect(end)
        self._depth -= 1

    def _expect(self, token: str) -> None:
        if self.next() != ord(token):
            self.fail(f'expected "{token}"')
        self._at += 1

    def _scalar(self) -> float | bool | None:
        found = _SCALAR.match(self._body, self._at, self._at + _MAX_SCALAR_BYTES)
        if not found:
            self.fail("expected a value")
        self._at = found.end()
        return _LITERALS[found[0]] if found[0] in _LITERALS else float(found[0])

    def _string(self) -> bytes:
        """The UTF-8 of the string that begins here."""
        start = self._at + 1
        whole: io.BytesIO | None = None
        while True:
            end = self._end_of_piece(start)
            piece = self._unescaped(start, end)
            if self._body[end : end + 1] == b'"':
                self._at = end + 1
                if whole is None:
                    return piece
                whole.write(piece)
                return whole.getvalue()
            if end == start:
                self._fail_in_string(start)
            whole = whole or io.BytesIO()  # it grows in place; joining the pieces would copy all of them at once
            whole.write(piece)
            start = end

    def _end_of_piece(self, start: int) -> int:
        """Where to stop reading a string at once: at its end, or at the end of one of its characters."""
        body = self._body
        stop = min(start + _PIECE, len(body))
        while stop < len(body) and stop > start + _PIECE - 3 and body[stop] & 0xC0 == 0x80:
            stop -= 1  # keep a UTF-8 character whole
        quote = body.find(b'"', start, stop)
        end = stop if quote == -1 else quote
        return end if body.find(b"\\", start, end) == -1 else self._end_of_characters(start, stop)

    def _end_of_characters(self, start: int, stop: int) -> int:
        found = _CHARACTERS.match(self._body, start, stop)
        return found.end() if found else start

    def _unescaped(self, start: int, stop: int) -> bytes:
        """The UTF-8 of a part of a string that holds whole characters."""
        if self._is_plain(start, stop):
            return bytes(self._view[start:stop])
        piece = b"".join((b'"', self._view[start:stop], b'"'))
        try:
            return _string_decoder.decode(piece).encode()
        except (msgspec.DecodeError, UnicodeDecodeError):
            if found := _CONTROL.search(piece):
                problem = f"holds the control character 0x{found[0][0]:02x}, which JSON requires to be escaped"
                raise self._invalid(problem) from None
            if (end := self._end_of_characters(start, stop)) < stop:
                self._fail_in_string(end)
            raise self._invalid("is not valid UTF-8") from None

    def _is_plain(self, start: int, stop: int) -> bool:
        """Whether a long part of a string, such as base64, is ASCII without escapes."""
        if stop - start < _WORTH_A_LOOK or self._body.find(b"\\", start, stop) != -1:
            return False
        values = np.frombuffer(self._view[start:stop], np.uint8)
        return bool(values.min() >= ord(" ") and values.max() < 0x7F)

    def _fail_in_string(self, at: int) -> NoReturn:
        if _HALF_A_PAIR.match(self._body, at):
            raise self._invalid(f"holds half a surrogate pair, which is no character (byte {at})")
        if len(self._body) - at < _MAX_CHARACTER_BYTES:
            raise self._invalid("does not end; the body seems to be cut off")
        raise self._invalid(f"holds an escape that JSON does not know (byte {at})")

    def _invalid(self, problem: str) -> InvalidRequest:
        return InvalidRequest(problem, self._parameter, self._position)
