"""Pictures of rare formats, decoded in processes apart that can be ended wherever they are (see worker.py)."""

import json
import os
import signal
import subprocess
import sys
import threading
from multiprocessing import Pipe
from typing import Any

from PIL import Image

from app.errors import ABOUT_PICTURES, BrokenPicture, InvalidRequest, PictureTooLarge, Unavailable
from app.processors.decode import Decoded
from app.processors.formats import format_of
from app.system import python_environment

# A process that computes is ended by its own timer; so many seconds are for one that does not get to.
_STALL_SECONDS = 30.0


class _Process(subprocess.Popen[bytes]):
    """One process, which has one picture at a time. Raises OSError if it cannot be started."""

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        with theirs:
            super().__init__(
                [sys.executable, "-m", "app.processors.worker", str(os.getpid()), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # decoders in C write there what they like
                stderr=subprocess.DEVNULL,
                env=python_environment(MALLOC_ARENA_MAX="1"),
                start_new_session=True,  # an interrupt of the terminal is for the server
            )

    def ask(self, task: dict[str, Any], data: bytes, patience: float) -> tuple[dict[str, Any], bytes]:
        """Its answer (see worker.py). Raises TimeoutError, or OSError or EOFError where it ended."""
        self._connection.send_bytes(json.dumps(task).encode())
        self._connection.send_bytes(data)
        if not self._connection.poll(patience):
            raise TimeoutError
        return json.loads(self._connection.recv_bytes()), self._connection.recv_bytes()

    def end(self) -> None:
        self.kill()
        self.wait()
        self._connection.close()


class DecoderProcesses:
    """The processes of one server: started when a picture needs one, kept for the next picture.

    A picture may take `seconds` of computing to be opened there, and again to be decoded. Safe on any thread.
    """

    def __init__(self, max_pixels: int, seconds: float, legacy: bool) -> None:
        self._task: dict[str, Any] = {"max_pixels": max_pixels, "seconds": seconds, "legacy": legacy}
        self._patience = _STALL_SECONDS + 4 * seconds
        self._lock = threading.Lock()
        self._idle: list[_Process] = []

    def ask(self, data: bytes, *, decode: bool) -> tuple[dict[str, Any], bytes]:
        """What a process says of the picture in `data`, and its pixels. Raises InvalidRequest or Unavailable."""
        process = self._take()
        try:
            fields, pixels = process.ask({**self._task, "decode": decode}, data, self._patience)
        except TimeoutError as error:
            process.end()
            raise Unavailable("the server is too busy to decode it; try again in a moment") from error
        except (OSError, EOFError) as error:
            status = process.wait()
            if status == 0:  # it had had nothing to do for long, and ended just now
                return self.ask(data, decode=decode)
            raise self._why_ended(status, data) from error
        with self._lock:
            self._idle.append(process)
        if "error" in fields:
            raise ABOUT_PICTURES.get(fields["cause"], InvalidRequest)(fields["error"])
        return fields, pixels

    def close(self) -> None:
        """End the processes that have nothing to do."""
        with self._lock:
            idle, self._idle = self._idle, []
        for process in idle:
            process.end()

    def _take(self) -> _Process:
        with self._lock:
            self._idle = [process for process in self._idle if process.poll() is None]
            if self._idle:
                return self._idle.pop()
        try:
            return _Process()
        except OSError as error:
            raise Unavailable("no process could be started to decode it; try again in a moment") from error

    def _why_ended(self, status: int, data: bytes) -> InvalidRequest | Unavailable:
        if status == -signal.SIGPROF:
            return PictureTooLarge(
                f"takes more than the {self._task['seconds']:g} s of computing allowed; "
                "save it as JPEG, make it smaller or raise DECODE_TIMEOUT"
            )
        if status == -signal.SIGKILL:
            return Unavailable("memory ran out while it was decoded; try again in a moment")
        return BrokenPicture(f"is a broken {format_of(data) or 'or unusual'} picture; save it again as JPEG or PNG")


class RarePicture:
    """A picture that a process apart has opened. Raises InvalidRequest or Unavailable.

    `size` is its width and height; `decoded_bytes` is how much memory decoding takes at most, there and here.
    """

    def __init__(self, data: bytes, processes: DecoderProcesses) -> None:
        self._data = data
        self._processes = processes
        fields, _ = processes.ask(data, decode=False)
        width, height = fields["size"]
        self.size: tuple[int, int] = (width, height)
        self.decoded_bytes: int = fields["decoded_bytes"] + 8 * width * height

    def decode(self, least: tuple[int, int] | None = None) -> Decoded:
        """The picture in full size, whatever `least` is."""
        fields, pixels = self._processes.ask(self._data, decode=True)
        width, height = fields["size"]
        image = Image.frombytes(fields["mode"], (width, height), pixels)
        return Decoded(image, image.size, fields["orientation"])
