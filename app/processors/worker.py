"""python -m app.processors.worker SERVER_PID: decodes pictures of rare formats for one server, one at a time.

It reads from standard input and answers on standard output:

    ->  max_pixels, seconds, legacy, length (see REQUEST), then the picture's bytes
    <-  {"size": [width, height], "decoded_bytes": n} or {"error": ...}, one line of JSON
    ->  DECODE or DROP
    <-  {"size": [width, height], "mode": "RGB" or "L"} and the pixels of the upright picture, or {"error": ...}

A decoder that takes too long is ended by SIGPROF after so many seconds of computing, wherever it is. Nothing
but this file's own answers leaves the process, which ends with its server or after a minute without work.
"""

import contextlib
import io
import json
import os
import resource
import select
import signal
import struct
import sys
import warnings
from typing import Any, BinaryIO

from PIL import AvifImagePlugin, Image

from app.child_process import end_with
from app.errors import InvalidRequest, PictureTooLarge, Unavailable
from app.processors.decode import check_pixels, decode_rare, named_errors
from app.processors.formats import COMMON, RARE

REQUEST = struct.Struct("<Qd?Q")
DECODE, DROP = b"D", b"X"

IDLE_SECONDS = 60.0
# What decoding a picture takes beside its pixels; OpenJPEG keeps four bytes for each sample.
_OWN_BYTES = 160 * 2**20
_BYTES_A_PIXEL = 32
# What a picture inside a picture may have, though the outer one says that it has fewer: _OWN_BYTES suffice.
_INNER_PIXELS = 2**22


def main(server: int) -> int:
    """Serve the process with the id `server` until it ends, or until it has had nothing to do for a while."""
    _confine(server)
    answers = sys.stdout.buffer
    while select.select([0], [], [], IDLE_SECONDS)[0]:
        header = _read(REQUEST.size)
        if len(header) < REQUEST.size:
            break
        max_pixels, seconds, legacy, length = REQUEST.unpack(header)
        data = _read(length)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        _work(data, max_pixels, legacy, answers)
        signal.setitimer(signal.ITIMER_PROF, 0)
    return 0


def _confine(server: int) -> None:
    """No files, no core dumps, no life after the server; first to go where memory runs out."""
    end_with(server)
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(limit, (0, 0))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="utf-8") as file:
        file.write("1000")


def _read(length: int) -> bytes:
    """So many bytes of standard input, fewer at its end; never more than asked for."""
    parts: list[bytes] = []
    while length and (part := os.read(0, min(length, 2**20))):
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _work(data: bytes, max_pixels: int, legacy: bool, answers: BinaryIO) -> None:
    Image.MAX_IMAGE_PIXELS = max_pixels  # for the pictures inside pictures
    try:
        with named_errors(data):
            image = Image.open(io.BytesIO(data), formats=[*COMMON, *RARE])
        check_pixels(image.size, max_pixels)
        pixels = image.width * image.height
        _limit_memory(_OWN_BYTES + _BYTES_A_PIXEL * pixels)
        _answer(answers, size=image.size, decoded_bytes=_OWN_BYTES // 4 + _BYTES_A_PIXEL // 2 * pixels)
        if _read(1) != DECODE:
            return
        Image.MAX_IMAGE_PIXELS = min(max_pixels, max(pixels, _INNER_PIXELS))
        picture = decode_rare(data, image, Image.MAX_IMAGE_PIXELS, legacy)
        _answer(answers, size=picture.size, mode=picture.mode)
        answers.write(picture.tobytes())
        answers.flush()
    except Unavailable:
        message = "takes more memory than a picture of its size should; save it again as JPEG or PNG"
        _answer(answers, error=message, cause=PictureTooLarge.cause)
    except InvalidRequest as error:
        _answer(answers, error=str(error), cause=error.cause)
    finally:
        _limit_memory(None)


def _limit_memory(more: int | None) -> None:
    """Let the process grow by so many bytes from now on; None takes the limit back."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = most
    if more is not None:
        with open("/proc/self/statm", encoding="utf-8") as file:
            limit = int(file.read().split()[0]) * resource.getpagesize() + more
        if most != resource.RLIM_INFINITY:
            limit = min(limit, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))


def _answer(answers: BinaryIO, **fields: Any) -> None:
    answers.write(json.dumps(fields).encode() + b"\n")
    answers.flush()


if __name__ == "__main__":
    import pillow_heif

    warnings.simplefilter("error", Image.DecompressionBombWarning)
    # One thread each: the limit is one of computing time, and other requests wait too.
    pillow_heif.options.DECODE_THREADS = AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    pillow_heif.register_heif_opener()
    Image.init()
    sys.exit(main(int(sys.argv[1])))
