"""JSON, read token by token.

A library parses a body of 128 MiB in one call, which keeps the interpreter's lock, and with it every other
thread and the event loop, for as long as that takes; and it makes all nine million strings of a hostile body
before anybody can count them. So this reads token by token, in C where a token is long, but no more than a piece of
it at once, and counts while it reads.
"""

import io
import re
from collections.abc import Iterator
from typing import NoReturn

import msgspec
import numpy as np

from app.errors import InvalidRequest, TooLarge

_PIECE = 128 * 1024
_WORTH_A_LOOK = 4096
_MAX_DEPTH = 100
# Of the values that are neither texts nor images and mean nothing here.
_MAX_OTHER_VALUES = 100_000

_SPACE = re.compile(rb"[ \t\n\r]*+")
_SCALAR = re.compile(rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?|true|false|null")
_MAX_SCALAR_BYTES = 1024
# Whole characters of a string: none ends inside an escape, or between the two halves of a pair.
_CHARACTERS = re.compile(
    rb'(?:[^"\\]++|\\(?:["\\/bfnrt]'
    rb"|u(?:[0-9a-ce-fA-CE-F][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}"
    rb"|[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})))*+"
)
_MAX_CHARACTER_BYTES = 12
_HALF_A_PAIR = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_CONTROL = re.compile(rb"[\x00-\x1f]")
_string_decoder = msgspec.json.Decoder(str)

_NAMES = {"{": "an object", "[": "an array", '"': "a string", "n": "null", "t": "true", "f": "false"}
_MAX_SHOWN = 40


class _BadString(Exception):
    """What is wrong with a string, to be read after its name."""


class Reader:
    """Reads a body of at most `max_items` items; `wanted` says what else is too much.

    What raises InvalidRequest names the parameter at fault, and the item.
    """

    def __init__(self, body: bytes | bytearray, max_items: int, wanted: str) -> None:
        self._body = body
        self._view = memoryview(body)
        self._at = 3 if body.startswith(b"\xef\xbb\xbf") else 0  # a byte-order mark
        self._max_items = max_items
        self._wanted = wanted
        self._items = 0
        self._other_values = 0
        self._depth = 0
        self._parameter: str | None = None
        self._position: int | None = None
        self._first: bytes | None = None
        self._known: dict[bytes, bytes] = {}

    def enter_object(self, example: str) -> None:
        """Stops at the object that the body has to be; `example` shows one to whoever sends something else."""
        first = self.next()
        if first == -1:
            raise InvalidRequest(f"the body is empty; send {example}")
        if first != ord("{"):
            self.other()
            self.end()
            raise InvalidRequest(f"the body is {name_of(first)}, not an object; send {example}")

    def parameters(self) -> Iterator[str]:
        """Stops before the value of each key of the body, which errors name from there on."""
        for key in self.fields():
            self._parameter = key if len(key) <= _MAX_SHOWN else f"{key[:_MAX_SHOWN]}…"
            yield key
            self._parameter = None

    def items(self) -> Iterator[None]:
        """Stops before each element of an array, which errors name by its position."""
        for position, _ in enumerate(self.elements()):
            self._position = position
            yield
            self._position = None

    def invalid(self, message: str) -> InvalidRequest:
        """The error to raise about what is being read."""
        return InvalidRequest(message, self._parameter, self._position)

    def count_item(self) -> None:
        """One more item; raises TooLarge if that is one too many."""
        self._items += 1
        if self._items > self._max_items:
            raise TooLarge(f"the request has more than the {self._max_items} items allowed; split it")

    def item(self) -> bytes:
        """The UTF-8 of the string that begins here; equal short ones are one object. Raises InvalidRequest."""
        item = self.string()
        if len(item) > _PIECE:  # hashing it takes long, and other threads wait meanwhile
            return item
        if self._first is None:  # usually the only one: it need not be hashed
            self._first = item
            return item
        if not self._known:
            self._known[self._first] = self._first
        return self._known.setdefault(item, item)

    def other(self) -> None:
        """Pass a value of any kind."""
        self._other_values += 1
        if self._other_values > _MAX_OTHER_VALUES:
            raise InvalidRequest(f"the body holds too much beside {self._wanted}; send only these")
        first = self.next()
        if first == ord('"'):
            self.string()
        elif first == ord("["):
            for _ in self.elements():
                self.other()
        elif first == ord("{"):
            for _ in self.fields():
                self.other()
        else:
            self.scalar()

    def scalar(self) -> bytes:
        """The number, true, false or null that begins here."""
        found = _SCALAR.match(self._body, self._at, self._at + _MAX_SCALAR_BYTES)
        if not found:
            self.fail("expected a value")
        self._at = found.end()
        return found[0]

    def elements(self) -> Iterator[None]:
        """Stops before each element of an array."""
        self._enter()
        if self.next() != ord("]"):
            yield
            while self.next() == ord(","):
                self._at += 1
                yield
        self._leave("]")

    def fields(self) -> Iterator[str]:
        """Stops before the value of each key of an object."""
        self._enter()
        if self.next() != ord("}"):
            yield self._key()
            while self.next() == ord(","):
                self._at += 1
                yield self._key()
        self._leave("}")

    def _enter(self) -> None:
        self._at += 1
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self.invalid(f"the body is nested more than {_MAX_DEPTH} deep")

    def _leave(self, token: str) -> None:
        self._expect(token)
        self._depth -= 1

    def _key(self) -> str:
        if self.next() != ord('"'):
            self.fail("expected a key in quotes")
        key = self.string("a key of the body " if self._parameter is None else "a key ").decode()
        self._expect(":")
        return key

    def string(self, what: str = "") -> bytes:
        """The UTF-8 of the string that begins here; raises InvalidRequest, about `what` if that is not an item."""
        try:
            return self._string()
        except _BadString as error:
            raise self.invalid(f"{what}{error}") from error

    def _string(self) -> bytes:
        start = self._at + 1
        whole: io.BytesIO | None = None
        while True:
            end = self._end_of_piece(start)
            piece = self._view[start:end] if self._is_plain(start, end) else self._unescape(start, end)
            if end < len(self._body) and self._body[end] == ord('"'):
                self._at = end + 1
                if whole is None:
                    return bytes(piece)
                whole.write(piece)
                return whole.getvalue()
            if end == start:
                self._fail_at(start)
            whole = whole or io.BytesIO()  # it grows in place; joining the pieces would copy all of them at once
            whole.write(piece)
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
        if quote == -1 and body.find(b"\\", max(start, stop - _MAX_CHARACTER_BYTES), stop) == -1:
            return stop
        return self._end_of_characters(start, stop)

    def _is_plain(self, start: int, stop: int) -> bool:
        """Whether a long part of a string, as base64 is, stands for itself: ASCII without escapes."""
        if stop - start < _WORTH_A_LOOK or self._body.find(b"\\", start, stop) != -1:
            return False
        values = np.frombuffer(self._view[start:stop], np.uint8)
        return bool(values.min() >= ord(" ") and values.max() < 0x7F)

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
        if len(self._body) - at < _MAX_CHARACTER_BYTES:
            raise _BadString("does not end; the body seems to be cut off")
        raise _BadString(f"holds an escape that JSON does not know (byte {at})")

    def next(self) -> int:
        """The byte at which the next token begins; -1 at the end."""
        if self._at < len(self._body) and (first := self._body[self._at]) > 0x20:
            return first
        while True:
            stop = self._at + _PIECE
            found = _SPACE.match(self._body, self._at, stop)
            self._at = found.end() if found else self._at
            if self._at < stop:
                return self._body[self._at] if self._at < len(self._body) else -1

    def _expect(self, token: str) -> None:
        if self.next() != ord(token):
            self.fail(f'expected "{token}"')
        self._at += 1

    def end(self) -> None:
        if self.next() != -1:
            self.fail("expected its end")

    def fail(self, problem: str) -> NoReturn:
        where = f"byte {self._at}" if self._at < len(self._body) else "the body ends here"
        raise InvalidRequest(f"the body is not valid JSON: {problem} ({where})")


def name_of(first: int) -> str:
    """What begins with this byte, in words."""
    return _NAMES.get(chr(first), "a number")


def shown(key: str) -> str:
    return f'"{key}"' if len(key) <= _MAX_SHOWN else f'"{key[:_MAX_SHOWN]}…"'
