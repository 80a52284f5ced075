"""Pictures of rare formats, decoded in processes apart that can be ended wherever they are (see worker.py)."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from PIL import Image

from app.child_process import python_environment
from app.errors import ABOUT_PICTURES, BrokenPicture, InvalidRequest, PictureTooLarge, Unavailable
from app.processors.decode import Decoded
from app.processors.formats import format_of
from app.processors.worker import DECODE, DROP, IDLE_SECONDS, REQUEST


class _Ended(Exception):
    """The process ended before it answered."""


class _Process:
    """One process, which has one picture at a time.

    `expects` says what it waits for: "picture", "word" (DECODE or DROP), or nothing while it works.
    """

    def __init__(self) -> None:
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "app.processors.worker", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # decoders in C write there what they like
                env=python_environment(MALLOC_ARENA_MAX="1"),
                start_new_session=True,  # an interrupt of the terminal is for the server
            )
        except OSError as error:
            raise Unavailable("no process could be started to decode it; try again in a moment") from error
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests: IO[bytes] = self._process.stdin
        self._answers: IO[bytes] = self._process.stdout
        self.expects = "picture"
        self.idle_since = 0.0
        self.stalled = False

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def send(self, *parts: bytes) -> None:
        """Raises _Ended."""
        self.expects = ""
        try:
            for part in parts:
                self._requests.write(part)
            self._requests.flush()
        except (OSError, ValueError) as error:
            raise _Ended from error

    def answer(self) -> dict[str, Any]:
        """Raises _Ended, or InvalidRequest, after which it expects the next picture."""
        line = self._answers.readline()
        if not line.endswith(b"\n"):
            raise _Ended
        fields: dict[str, Any] = json.loads(line)
        if "error" in fields:
            self.expects = "picture"
            raise ABOUT_PICTURES.get(fields["cause"], InvalidRequest)(fields["error"])
        return fields

    def read(self, length: int) -> bytes:
        """Raises _Ended."""
        data = self._answers.read(length)
        if len(data) < length:
            raise _Ended
        return data

    def exit_status(self) -> int:
        """What it ended with: minus the signal that ended it."""
        return self._process.wait()

    def give_up(self) -> None:
        """End it from another thread than the one that waits for it."""
        self.stalled = True
        self._process.kill()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._requests, self._answers):
            with contextlib.suppress(OSError):  # what was not sent is of no use any more
                stream.close()


class RarePicture:
    """A picture that a process apart has opened. Raises InvalidRequest or Unavailable.

    `size` is its width and height; `decoded_bytes` is how much memory decoding takes at most, there and here.
    """

    def __init__(self, process: _Process, fields: dict[str, Any]) -> None:
        self._process = process
        width, height = fields["size"]
        self.size: tuple[int, int] = (width, height)
        self.decoded_bytes: int = fields["decoded_bytes"] + 8 * width * height

    def decode(self, least: tuple[int, int] | None = None) -> Decoded:
        """The upright picture in full size, whatever `least` is."""
        self._process.send(DECODE)
        fields = self._process.answer()
        width, height = fields["size"]
        mode: str = fields["mode"]
        pixels = self._process.read(width * height * len(mode))
        self._process.expects = "picture"
        return Decoded(Image.frombytes(mode, (width, height), pixels), (width, height))


class DecoderProcesses:
    """The processes of one server: started when a picture needs one, kept for the next picture.

    A picture may take `seconds` of computing there. Safe on any thread.
    """

    def __init__(self, max_pixels: int, seconds: float, legacy: bool) -> None:
        self._max_pixels = max_pixels
        self._seconds = seconds
        self._legacy = legacy
        self._lock = threading.Lock()
        self._idle: list[_Process] = []

    @contextmanager
    def open(self, data: bytes) -> Iterator[RarePicture]:
        """The picture in `data`, for as long as it is needed. Raises InvalidRequest or Unavailable."""
        process = self._take()
        # A process that computes is ended by its own timer; this one is for a process that does not get to.
        guard = threading.Timer(30 + 4 * self._seconds, process.give_up)
        guard.daemon = True
        guard.start()
        try:
            process.send(REQUEST.pack(self._max_pixels, self._seconds, self._legacy, len(data)), data)
            fields = process.answer()
            process.expects = "word"
            yield RarePicture(process, fields)
        except _Ended as error:
            raise self._why_ended(process, data) from error
        finally:
            guard.cancel()
            self._put_back(process)

    def close(self) -> None:
        """End the processes that have nothing to do."""
        with self._lock:
            idle, self._idle = self._idle, []
        for process in idle:
            process.end()

    def _take(self) -> _Process:
        now = time.monotonic()
        with self._lock:
            process = self._idle.pop() if self._idle else None
        if process is None:
            return _Process()
        if now < process.idle_since + IDLE_SECONDS / 2 and process.alive:
            return process
        process.end()  # it ends about now, and those that were put back before it did or will
        self.close()
        return _Process()

    def _put_back(self, process: _Process) -> None:
        if process.expects == "word":
            with contextlib.suppress(_Ended):
                process.send(DROP)
                process.expects = "picture"
        if process.expects != "picture":
            process.end()
            return
        process.idle_since = time.monotonic()
        with self._lock:
            self._idle.append(process)

    def _why_ended(self, process: _Process, data: bytes) -> InvalidRequest | Unavailable:
        status = process.exit_status()
        if status == -signal.SIGPROF:
            return PictureTooLarge(
                f"takes more than the {self._seconds:g} s of computing allowed; "
                "save it as JPEG, make it smaller or raise DECODE_TIMEOUT"
            )
        if process.stalled:
            return Unavailable("the server is too busy to decode it; try again in a moment")
        if status == -signal.SIGKILL:
            return Unavailable("memory ran out while it was decoded; try again in a moment")
        return BrokenPicture(
            f"is a broken {format_of(data)} picture; save it again as JPEG or PNG".replace("  ", " ")
        )
