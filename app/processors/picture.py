"""The way of a picture: base64 text to the arrays of one item."""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import KW_ONLY, dataclass
from typing import Any

import pybase64
from PIL import Image

from app.errors import InvalidRequest, NotBase64
from app.processors.decode import CommonPicture
from app.processors.formats import common_format, looks_like
from app.processors.image import ImageProcessor
from app.processors.isolated import DecoderProcesses, RarePicture
from app.towers import Inputs, Processor

# So many times the size that the model takes is what a JPEG is decoded at, at least.
_HEAD_ROOM = 4

_DATA_URI = re.compile(rb"\s*data:[^,]{0,1000},", re.IGNORECASE)
_TO_STANDARD = bytes.maketrans(b"-_ ", b"+/+")
_BREAKS = b"\t\n\v\f\r"


@dataclass(eq=False)
class PictureProcessor:
    """From base64 text to the arrays that an image tower takes, by way of its `processor`.

    Of an animation the first frame counts. Transparency is laid on white, rotation tags are honoured, 16-bit and
    float greys keep their tones; with `legacy` the picture is only converted to RGB. No picture of more than
    `max_pixels` is decoded, and none for longer than `seconds` of computing. With `fast` a large JPEG is decoded at a
    part of its size and pictures are resized by a library whose pixels are nearly those of Pillow, where the model
    takes a plain crop. Decoding waits for as many bytes of `memory` as it takes. Safe on any thread.
    """

    processor: Processor
    _: KW_ONLY
    max_pixels: int
    seconds: float
    legacy: bool = False
    fast: bool = False
    memory: Callable[[int], AbstractContextManager[None]] = lambda _: nullcontext()

    def __post_init__(self) -> None:
        self._processes = DecoderProcesses(self.max_pixels, self.seconds, self.legacy)

    def is_quick(self, content: bytes) -> bool:
        """No picture is prepared in less time than a thread takes to wake."""
        return False

    def __call__(self, content: bytes) -> Inputs:
        """The arrays of the picture in a base64 text; raises InvalidRequest or Unavailable."""
        picture = self.open(content)
        with self.memory(picture.decoded_bytes):
            if isinstance(self.processor, ImageProcessor):
                least = self._least_size(self.processor, picture.size) if self.fast else None
                return self.processor.prepare(picture.decode(least), self.fast)
            return self.processor(picture.decode().upright())

    def many(self, contents: list[bytes]) -> list[Inputs]:
        """The same for several."""
        return [self(content) for content in contents]

    def open(self, text: bytes) -> CommonPicture | RarePicture:
        """The picture in a base64 text, of which only the header was read; raises InvalidRequest or Unavailable."""
        data = decode_base64(text)
        if not data:
            raise InvalidRequest("is empty")
        if (header := common_format(data)) is not None:
            picture = CommonPicture(header, self.max_pixels, self.legacy)
            if picture.seconds <= self.seconds:
                return picture
        return RarePicture(data, self._processes)

    @staticmethod
    def _least_size(processor: ImageProcessor, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height that a stored picture of this `size` keeps at least where it is decoded smaller."""
        width, height = processor.resized_size(*size)
        if processor.shortest_edge is None:
            width = height = max(width, height)  # a rotation may swap them
        return _HEAD_ROOM * width, _HEAD_ROOM * height

    def close(self) -> None:
        """End the processes that have nothing to do; those at work end with the server."""
        self._processes.close()


def keep_decoded_memory(size: int) -> None:
    """Keep so many bytes of the memory of decoded pictures for the next ones.

    Getting 48 MB from the system for each photo of 12 megapixels takes as long as half of its decoding.
    """
    core: Any = getattr(Image, "core")  # noqa: B009 - Pillow exports it, and does not say so
    core.set_blocks_max(size // core.get_block_size())


def decode_base64(text: bytes) -> bytes:
    """Bytes of a base64 text, with or without data URI, line breaks, URL-safe alphabet or padding.

    Raises InvalidRequest that says what the text is instead.
    """
    start = prefix.end() if (prefix := _DATA_URI.match(text)) else 0
    with suppress(ValueError):
        return pybase64.b64decode(memoryview(text)[start:], validate=True)
    try:
        return _decode_unusual(text[start:])
    except ValueError as error:
        hint = looks_like(text[:100], "send the bytes of the file, base64-encoded")
        raise NotBase64(f"is not base64; {hint}") from error


def _decode_unusual(text: bytes) -> bytes:
    """In other alphabets, with breaks or without padding; raises ValueError for what is no base64."""
    text = text.lstrip().rstrip(_BREAKS + b" =").translate(_TO_STANDARD, _BREAKS)
    if b"=" in text:
        raise ValueError("padding in the middle")
    return pybase64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
