"""A text of which parts are decoded as they are needed: decoded it may take four times as much."""

from collections.abc import Iterator

_PIECE = 65_536


class Utf8:
    """Valid UTF-8; lengths are in characters where nothing else is said."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def is_within(self, length: int) -> bool:
        """Whether it has at most so many characters."""
        return len(self._data) <= length or len(self.head(length + 1)) <= length

    def head(self, length: int) -> str:
        """The first so many characters."""
        return self._data[: 4 * length].decode(errors="ignore")[:length]

    def find_blank(self, start: int) -> int:
        """Where the first blank is from `start` on; the text's length if there is none."""
        at = 0
        for piece, _ in self.stretches(_PIECE, 0):
            rest = piece[max(0, start - at) :]
            word = 0 if rest[:1].isspace() else len(rest.split(None, 1)[0]) if rest else 0
            if word < len(rest):
                return at + len(piece) - len(rest) + word
            at += len(piece)
        return at

    def stretches(self, size: int, ahead: int) -> Iterator[tuple[str, str]]:
        """Parts of about `size` bytes, each with so many characters of what follows it."""
        start = 0
        while start < len(self._data):
            stop = self._boundary(start + size)
            after = self._data[stop : stop + 4 * ahead].decode(errors="ignore")[:ahead]
            yield self._data[start:stop].decode(), after
            start = stop

    def _boundary(self, at: int) -> int:
        while at < len(self._data) and self._data[at] & 0xC0 == 0x80:
            at -= 1
        return at
