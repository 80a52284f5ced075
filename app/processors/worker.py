"""python -m app.processors.worker SERVER_PID DESCRIPTOR: decodes pictures of rare formats for one server.

Through the socket DESCRIPTOR it takes one picture after the other, and answers each:

    ->  {"max_pixels": n, "seconds": s, "legacy": bool, "decode": bool} and the picture's bytes
    <-  {"size": [width, height], "decoded_bytes": n}, or, where it is to decode,
        {"size": [width, height], "mode": "RGB" or "L", "orientation": tag} and the pixels, or
        {"error": message, "cause": word}

A decoder that takes too long is ended by SIGPROF after so many seconds of computing, wherever it is. The process ends
with its server, or after a minute without work.
"""

import contextlib
import io
import json
import resource
import signal
import sys
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from PIL import AvifImagePlugin, Image

from app.errors import InvalidRequest, PictureTooLarge, Unavailable
from app.processors.decode import check_pixels, decode_opened, named_errors
from app.processors.formats import COMMON, RARE
from app.system import end_with

_IDLE_SECONDS = 60.0
# What decoding a picture takes beside its pixels; OpenJPEG keeps four bytes for each sample.
_OWN_BYTES = 160 * 2**20
_BYTES_A_PIXEL = 32
# What a picture inside a picture may have, though the outer one says that it has fewer: _OWN_BYTES suffice.
_INNER_PIXELS = 2**22


def main(server: int, descriptor: int) -> None:
    """Serve the process with the id `server` until it ends, or until it has had nothing to do for a while."""
    end_with(server)
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):  # it writes nothing
        resource.setrlimit(limit, (0, 0))
    with contextlib.suppress(OSError):  # the first to go where memory runs out
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="utf-8")
    connection = Connection(descriptor)
    while connection.poll(_IDLE_SECONDS):
        task, data = json.loads(connection.recv_bytes()), connection.recv_bytes()
        signal.setitimer(signal.ITIMER_PROF, task["seconds"])
        answer, pixels = _work(data, task["max_pixels"], task["legacy"], task["decode"])
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.send_bytes(json.dumps(answer).encode())
        connection.send_bytes(pixels)


def _work(data: bytes, max_pixels: int, legacy: bool, decode: bool) -> tuple[dict[str, Any], bytes]:
    Image.MAX_IMAGE_PIXELS = max_pixels  # for the pictures inside pictures
    try:
        with named_errors(data):
            image = Image.open(io.BytesIO(data), formats=[*COMMON, *RARE])
        check_pixels(image.size, max_pixels)
        pixels = image.width * image.height
        if not decode:
            return {"size": image.size, "decoded_bytes": _OWN_BYTES // 4 + _BYTES_A_PIXEL // 2 * pixels}, b""
        Image.MAX_IMAGE_PIXELS = min(max_pixels, max(pixels, _INNER_PIXELS))
        with _memory_limit(_OWN_BYTES + _BYTES_A_PIXEL * pixels):
            decoded = decode_opened(image, data, Image.MAX_IMAGE_PIXELS, legacy)
        fields = {"size": decoded.size, "mode": decoded.image.mode, "orientation": decoded.orientation}
        return fields, decoded.image.tobytes()
    except Unavailable:
        message = "takes more memory than a picture of its size should; save it again as JPEG or PNG"
        return {"error": message, "cause": PictureTooLarge.cause}, b""
    except InvalidRequest as error:
        return {"error": str(error), "cause": error.cause}, b""


@contextlib.contextmanager
def _memory_limit(more: int) -> Iterator[None]:
    """Let the process grow by so many bytes meanwhile; without procfs (macOS) no system limits it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
        limit = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


if __name__ == "__main__":
    import pillow_heif

    warnings.simplefilter("error", Image.DecompressionBombWarning)
    # One thread each: the limit is one of computing time, and other requests wait too.
    pillow_heif.options.DECODE_THREADS = AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    pillow_heif.register_heif_opener()
    Image.init()
    main(*map(int, sys.argv[1:]))
